"""EDM's networks, imported from PyTorch files, compared with the originals.

The originals are the preconditioned networks of nvidia-modulus, which have EDM's names. Their
sampler is EDM's algorithm 1, written here in float64.
"""

import sys
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

sys.modules.setdefault("s3fs", types.ModuleType("s3fs"))  # as in test_unet.py

from modulus.models.diffusion import EDMPrecond  # noqa: E402

from cdt import from_config  # noqa: E402
from cdt.diffusion.denoiser import make_denoiser  # noqa: E402
from cdt.interop.import_edm import import_edm  # noqa: E402
from cdt.run.open_run import open_run  # noqa: E402
from cdt.run.weights import load_params  # noqa: E402
from cdt.sampling import grids  # noqa: E402
from cdt.sampling.heun import heun  # noqa: E402
from smoke_runs import smoke  # noqa: E402

SIDE = 16
NETWORKS = {
    "imagenet64": dict(model_type="DhariwalUNet", label_dim=10),
    "cifar10": dict(model_type="SongUNet", label_dim=0, augment_dim=9),
}


@pytest.fixture(autouse=True)
def no_profiler_ranges(monkeypatch):
    """Disable the marks of Modulus for NVIDIA's profiler, which the CPU build of torch lacks."""
    monkeypatch.setattr(torch.cuda.nvtx, "range_push", lambda message: None)
    monkeypatch.setattr(torch.cuda.nvtx, "range_pop", lambda: None)


@pytest.fixture(params=NETWORKS)
def both(request, tmp_path):
    """Return (their denoiser, our denoiser): x f32[B, C, H, W], sigma -> f64 NumPy[B, C, H, W]."""
    fields = NETWORKS[request.param]
    torch.manual_seed(0)
    peer = EDMPrecond(
        img_resolution=SIDE, img_channels=3, model_channels=64, channel_mult=[1, 2], num_blocks=1,
        attn_resolutions=[8], dropout=0.1, **fields,
    ).eval()  # fmt: skip
    with torch.no_grad():
        for parameter in peer.parameters():  # no weights at their initial zeros
            parameter.add_(0.05 * torch.randn_like(parameter))
    # Modulus has additional empty tensors, from which it reads the device.
    state = {n: t for n, t in peer.state_dict().items() if not n.endswith("device_buffer")}
    assert any(name.endswith("resample_filter") for name in state)
    torch.save(state, tmp_path / "net.pt")
    config = smoke(request.param, **{"model.channels": 64, "data.flip": False})
    config.compilation_cache = ""
    assert import_edm(config, tmp_path / "run", tmp_path / "net.pt") == 0

    model = from_config.model(config)
    _, params = load_params(open_run(config, tmp_path / "run"))
    label = 3 if fields["label_dim"] else None

    def theirs(x, sigma):
        one_hot = None
        if label is not None:
            one_hot = torch.eye(10)[torch.full((len(x),), label)]
        with torch.no_grad():
            x = torch.from_numpy(np.asarray(x, np.float32))
            out = peer(x, torch.full((len(x),), sigma), one_hot)
        return out.numpy().astype(np.float64)

    network = from_config.network_at(model, params)

    def denoise(x, level):
        told = {} if label is None else {"label": jnp.full(len(x), label)}
        plain = make_denoiser(
            lambda x, level: network(x, level, told), model.process, model.prediction, False, False
        )
        return plain(x, level)

    return theirs, denoise, model.process


def to_nhwc(x):
    return jnp.asarray(np.asarray(x).transpose(0, 2, 3, 1), jnp.float32)


def to_nchw(x):
    return np.asarray(x).transpose(0, 3, 1, 2)


def test_the_denoiser(both):
    theirs, denoise, _ = both
    rng = np.random.default_rng(0)
    for sigma in (0.01, 0.5, 3.0, 60.0):
        clean = rng.standard_normal((3, 3, SIDE, SIDE))
        x = (0.5 * clean + sigma * rng.standard_normal(clean.shape)).astype(np.float32)
        wanted = theirs(x, sigma)
        found = to_nchw(jax.jit(denoise)(to_nhwc(x), jnp.full(3, sigma, jnp.float32)).x0)
        assert np.abs(found - wanted).max() < 1e-4 * np.abs(wanted).max()


def test_eighteen_steps_of_heun(both):
    theirs, denoise, process = both
    grid = grids.karras_sigmas(18, 0.002, 80.0, 7.0)
    noise = np.random.default_rng(1).standard_normal((2, 3, SIDE, SIDE)).astype(np.float32)
    x = 80.0 * noise.astype(np.float64)
    for sigma, following in zip(grid[:-1], grid[1:], strict=True):
        slope = (x - theirs(x, float(sigma))) / sigma
        predicted = x + (following - sigma) * slope
        if following > 0:
            slope = (slope + (predicted - theirs(predicted, float(following))) / following) / 2
        x = x + (following - sigma) * slope
    run = jax.jit(lambda x: heun(denoise, process, grid, x, None))
    found = to_nchw(run(to_nhwc(80.0 * noise)))
    assert np.abs(found - x).max() < 1e-4 * np.abs(x).max()
    assert np.std(x) > 0.1
