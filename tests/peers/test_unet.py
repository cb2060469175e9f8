"""The U-Nets, compared with an independent implementation, those of nvidia-modulus.

Modulus has EDM's DhariwalUNet (ADM) and SongUNet (DDPM++).
"""

import math
import sys
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

# Modulus imports s3fs and botocore to read files from S3, which the tests do not need.
sys.modules.setdefault("s3fs", types.ModuleType("s3fs"))

from modulus.models.diffusion import DhariwalUNet, SongUNet  # noqa: E402

from cdt.models.unet import adm, ddpmpp  # noqa: E402
from edm_state import edm_state  # noqa: E402

SIDE, CHANNELS, OUT_CHANNELS, CLASSES = 16, 3, 6, 10
# Two levels with attention and one without; two heads of ADM at the last.
SIZES = {
    "adm": dict(channels=32, channel_mult=(1, 2, 4), attention_resolutions=(8, 4)),
    "ddpmpp": dict(channels=32, channel_mult=(2, 1, 2), attention_resolutions=(16, 4)),
}
CONSTRUCTORS = {"adm": (adm, DhariwalUNet), "ddpmpp": (ddpmpp, SongUNet)}


@pytest.fixture(autouse=True)
def no_profiler_ranges(monkeypatch):
    """Disable the marks of Modulus for NVIDIA's profiler, which the CPU build of torch lacks."""
    monkeypatch.setattr(torch.cuda.nvtx, "range_push", lambda message: None)
    monkeypatch.setattr(torch.cuda.nvtx, "range_pop", lambda: None)


def random_params(model, *args):
    """Random kernels, biases and scales of the usual size; none at its initial value."""
    rng = np.random.default_rng(0)

    def draw(path, leaf):
        noise = rng.standard_normal(leaf.shape, dtype=np.float32)
        if path[-1].key == "kernel":
            return noise / math.sqrt(np.prod(leaf.shape[:-1]))
        return 0.3 * noise + (path[-1].key == "scale")

    shapes = jax.eval_shape(model.init, jax.random.key(0), *args)["params"]
    return jax.tree_util.tree_map_with_path(draw, shapes)


def to_nchw(x):
    return torch.from_numpy(np.asarray(x).transpose(0, 3, 1, 2).copy())


@pytest.mark.parametrize("style", CONSTRUCTORS)
def test_forward_and_input_gradient(style):
    ours, theirs = CONSTRUCTORS[style]
    size = SIZES[style]
    rng = np.random.default_rng(1)
    x = rng.standard_normal((5, SIDE, SIDE, CHANNELS), dtype=np.float32)
    time = np.array([-1.7, 0.0, 0.3, 20.0, 999.0], np.float32)
    label = np.array([0, 1, 5, 9, CLASSES], np.int32)
    augment = rng.standard_normal((5, 9), dtype=np.float32)

    model = ours(
        **size, num_blocks=1, dropout=0.0, out_channels=OUT_CHANNELS, num_classes=CLASSES
    )  # fmt: skip
    given = time, label, augment
    params = random_params(model, x, *given)
    cotangent = rng.standard_normal((*x.shape[:3], OUT_CHANNELS), dtype=np.float32)

    @jax.jit
    def output_and_gradient(x):
        output, pullback = jax.vjp(lambda x: model.apply({"params": params}, x, *given), x)
        return output, *pullback(jnp.asarray(cotangent))

    output, gradient = output_and_gradient(x)

    peer = theirs(
        img_resolution=SIDE, in_channels=CHANNELS, out_channels=OUT_CHANNELS,
        label_dim=CLASSES, model_channels=size["channels"],
        channel_mult=[*size["channel_mult"]], num_blocks=1,
        attn_resolutions=[*size["attention_resolutions"]], dropout=0.0, augment_dim=9,
    )  # fmt: skip
    state = {n: torch.from_numpy(a) for n, a in edm_state(style, params, SIDE).items()}
    assert state.keys() == dict(peer.named_parameters()).keys()
    peer.load_state_dict(state, strict=False)  # it has buffers too, which are constants
    one_hot = np.eye(CLASSES + 1, CLASSES, dtype=np.float32)[label]  # zeros for a dropped label
    peer_x = to_nchw(x).requires_grad_()
    peer_output = peer(
        peer_x, torch.from_numpy(time), torch.from_numpy(one_hot), torch.from_numpy(augment)
    )
    peer_output.backward(to_nchw(cotangent))

    for a, b in [(output, peer_output), (gradient, peer_x.grad)]:
        b = b.detach().numpy().transpose(0, 2, 3, 1)
        # Relative to the norm: both sum in float32, in different orders.
        assert np.linalg.norm(a - b) < 1e-5 * np.linalg.norm(b)
        assert np.std(b) > 0.1
