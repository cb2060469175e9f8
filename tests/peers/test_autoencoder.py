"""The autoencoder, compared with diffusers' AutoencoderKL through the files of diffusers."""

import json
from functools import partial

import jax
import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL

from autoencoder_files import TINY, random_state, tiny_shapes
from cdt.files.safetensors import read_tensors
from cdt.interop.autoencoder_files import autoencoder_of, autoencoder_params
from cdt.models.autoencoder import ResidualBlock


def saved(peer, folder):
    """Return (our network, our parameters) from the files of `save_pretrained`."""
    shapes = {name: tuple(tensor.shape) for name, tensor in peer.state_dict().items()}
    state = {k: torch.from_numpy(v) for k, v in random_state(shapes).items()}
    peer.load_state_dict(state, strict=True)
    peer.save_pretrained(folder, safe_serialization=True)
    network = autoencoder_of(json.loads((folder / "config.json").read_text()))
    tensors = read_tensors(folder / "diffusion_pytorch_model.safetensors")
    return network, autoencoder_params(network, tensors)


def nchw(x):
    return torch.from_numpy(np.array(x.transpose(0, 3, 1, 2)))


def assert_close(ours, theirs, what):
    theirs = theirs.detach().numpy()
    theirs = theirs.transpose(0, 2, 3, 1) if theirs.ndim == 4 else theirs
    error = np.abs(ours - theirs).max() / np.abs(theirs).max()
    print(f"{what}: {error:.1e}")
    assert ours.shape == theirs.shape and error < 1e-4
    assert np.std(theirs) > 0.1


def test_names_and_shapes_of_the_small_files():
    with torch.device("meta"):
        peer = AutoencoderKL.from_config(TINY)
    assert {k: tuple(v.shape) for k, v in peer.state_dict().items()} == tiny_shapes()


def compare(peer, folder, side):
    network, params = saved(peer.eval(), folder)
    rng = np.random.default_rng(1)
    images = rng.uniform(-1, 1, (2, side, side + 8, 3)).astype(np.float32)

    @partial(jax.jit, static_argnames="method")
    def ours(x, method):
        return network.apply({"params": params}, x, method=method)

    moments = ours(images, "encode")
    with torch.no_grad():
        theirs = peer.encode(nchw(images)).latent_dist
        assert_close(moments.mean, theirs.mean, "mean")
        assert_close(moments.log_variance, theirs.logvar, "log variance")
        assert_close(np.exp(0.5 * moments.log_variance), theirs.std, "standard deviation")
        latents = rng.standard_normal(moments.mean.shape).astype(np.float32)
        assert_close(ours(latents, "decode"), peer.decode(nchw(latents)).sample, "decoded")


def test_encode_and_decode(tmp_path):
    compare(AutoencoderKL.from_config(TINY), tmp_path, side=16)


def test_encode_and_decode_at_stable_diffusions_depth(tmp_path):
    peer = AutoencoderKL(
        block_out_channels=(32, 64, 64, 64), layers_per_block=2,
        down_block_types=["DownEncoderBlock2D"] * 4, up_block_types=["UpDecoderBlock2D"] * 4,
    )  # fmt: skip
    compare(peer, tmp_path, side=24)


def test_one_block_at_full_width():
    torch.manual_seed(0)
    peer = AutoencoderKL(
        block_out_channels=(256, 512), layers_per_block=1,
        down_block_types=["DownEncoderBlock2D"] * 2, up_block_types=["UpDecoderBlock2D"] * 2,
    )  # fmt: skip
    theirs = peer.encoder.down_blocks[1].resnets[0].eval()
    state = {k: v.detach().numpy() for k, v in theirs.state_dict().items()}
    params = {}
    for name, array in state.items():
        layer, leaf = name.split(".")
        convolution = array.ndim == 4
        leaf = "bias" if leaf == "bias" else "kernel" if convolution else "scale"
        array = array.transpose(2, 3, 1, 0) if convolution else array
        params.setdefault(layer, {})[leaf] = array
    x = np.random.default_rng(0).standard_normal((1, 8, 8, 256)).astype(np.float32)
    ours = ResidualBlock(512, 32).apply({"params": params}, x)
    with torch.no_grad():
        assert_close(ours, theirs(nchw(x), None), "256 to 512 channels")


@pytest.mark.parametrize("half", [torch.float16, torch.bfloat16])
def test_half_precision_files(tmp_path, half):
    peer = AutoencoderKL.from_config(TINY).to(half)
    peer.save_pretrained(tmp_path, safe_serialization=True)
    tensors = read_tensors(tmp_path / "diffusion_pytorch_model.safetensors")
    params = autoencoder_params(autoencoder_of(TINY), tensors)
    kernel = peer.encoder.conv_in.weight.detach().float().numpy().transpose(2, 3, 1, 0)
    np.testing.assert_array_equal(params["encoder"]["conv_in"]["kernel"], kernel)
