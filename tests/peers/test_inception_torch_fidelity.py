"""Inception, compared with torch-fidelity's with random weights, through a PyTorch file."""

import importlib.util
import sys
import tempfile

import jax
import numpy as np
import pytest
import torch

from cdt.evals.inception import network, parameters
from cdt.files.pytorch import read_state_dict

# The __init__ of the package imports torchvision, which its Inception does not need: do not run it.
spec = importlib.util.find_spec("torch_fidelity")
sys.modules["torch_fidelity"] = importlib.util.module_from_spec(spec)
from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3  # noqa: E402


class Peer(FeatureExtractorInceptionV3):
    def load_state_dict(self, state):
        """Do nothing, to keep the random weights of the constructor."""


def random_peer():
    """Return a network with random weights that keep the scale of activations.

    Every layer then affects the result. The statistics of batch normalization differ from their
    initial values.
    """
    with tempfile.NamedTemporaryFile(suffix=".pth") as nothing:
        torch.save({}, nothing.name)
        peer = Peer(
            "peer", ["2048", "logits_unbiased"], feature_extractor_weights_path=nothing.name
        )
    torch.manual_seed(0)
    for module in peer.modules():
        if isinstance(module, torch.nn.Conv2d):
            torch.nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
        if isinstance(module, torch.nn.BatchNorm2d):
            module.weight.uniform_(0.8, 1.2)
            module.bias.normal_(0, 0.2)
            module.running_mean.normal_(0, 0.2)
            module.running_var.uniform_(0.5, 1.5)
    return peer


@pytest.fixture(scope="module")
def peer():
    return random_peer()


@pytest.fixture(scope="module")
def params(peer, tmp_path_factory):
    path = tmp_path_factory.mktemp("weights") / "inception.pth"
    torch.save(peer.state_dict(), path, _use_new_zipfile_serialization=False)
    return parameters(read_state_dict(path))


def test_all_layers_are_read(peer, params):
    assert sum(isinstance(m, torch.nn.Conv2d) for m in peer.modules()) == len(params.layers)


@pytest.mark.parametrize("shape", [(299, 299), (32, 32), (400, 513), (1, 7)], ids=str)
def test_activations(peer, params, shape):
    images = np.random.RandomState(0).randint(0, 256, (2, *shape, 3)).astype(np.uint8)
    images[1] //= 8
    kept = []
    hook = peer.Mixed_6d.branch1x1.register_forward_hook(lambda *call: kept.append(call[2]))
    with torch.no_grad():
        pool, logits = peer(torch.from_numpy(images.transpose(0, 3, 1, 2).copy()))
    hook.remove()
    ours = jax.jit(network)(params, images)
    spatial = kept[0].permute(0, 2, 3, 1)[..., :7].reshape(2, 2023)
    for name, theirs in [("features", pool), ("spatial", spatial), ("logits", logits)]:
        theirs, found = theirs.numpy(), np.asarray(getattr(ours, name))
        assert found.shape == theirs.shape
        error = np.abs(found - theirs).max() / np.abs(theirs).max()
        print(f"{name} {shape}: {error:.1e}")
        assert error < 1e-4, name
        # Differences between images are much larger than this.
        assert np.abs(theirs[0] - theirs[1]).max() > 0.05 * np.abs(theirs).max()
