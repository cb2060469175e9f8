"""The layers of the autoencoder against their definitions.

tests/peers compares the whole network with diffusers.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from autoencoder_files import FACTOR, TINY, random_state, tiny_shapes
from cdt.interop.autoencoder_files import autoencoder_of, autoencoder_params
from cdt.models.autoencoder import Attention, Autoencoder, Downsample, Upsample

NETWORK = autoencoder_of(TINY)
STATE = random_state(tiny_shapes())
IMAGES = np.random.default_rng(1).uniform(-1, 1, (2, 8, 12, 3)).astype(np.float32)


@pytest.fixture(scope="module")
def params():
    return autoencoder_params(NETWORK, STATE)


@jax.jit
def encode(params, images):
    return NETWORK.apply({"params": params}, images, method="encode")


def decode(params, latents):
    return NETWORK.apply({"params": params}, latents, method="decode")


def test_shapes_and_types(params):
    moments = jax.eval_shape(encode, params, IMAGES)
    assert moments.mean.shape == moments.log_variance.shape == (2, 8 // FACTOR, 12 // FACTOR, 4)
    images = jax.eval_shape(decode, params, moments.mean)
    assert images.shape == IMAGES.shape and images.dtype == moments.mean.dtype == jnp.float32


def test_defaults_are_stable_diffusion():
    network = Autoencoder()
    images = jax.ShapeDtypeStruct((1, 64, 64, 3), jnp.float32)
    params = jax.eval_shape(network.init, jax.random.key(0), images)["params"]
    count = sum(np.prod(leaf.shape) for leaf in jax.tree.leaves(params))
    assert count == 83_653_863  # as published
    moments = jax.eval_shape(lambda p, x: network.apply(p, x, method="encode"),
                             {"params": params}, images)  # fmt: skip
    assert moments.mean.shape == (1, 8, 8, 4) and network.downsampling == 8


def test_log_variance_is_clipped(params):
    bias = np.array([0, 0, 0, 0, 1e3, -1e3, 0, 0], np.float32)
    moments = encode(params | {"quant_conv": params["quant_conv"] | {"bias": bias}}, IMAGES)
    assert np.all(moments.log_variance[..., 0] == 20)
    assert np.all(moments.log_variance[..., 1] == -30)


def test_sides_that_cannot_be_halved(params):
    with pytest.raises(ValueError, match="8x13.*divisible by 2"):
        jax.eval_shape(encode, params, np.zeros((1, 8, 13, 3), np.float32))


def kernel_with(tap):
    """Return parameters whose kernel is the identity on two channels at one tap, zero elsewhere."""
    kernel = np.zeros((3, 3, 2, 2), np.float32)
    kernel[tap] = np.eye(2)
    return {"params": {"conv": {"kernel": kernel, "bias": np.zeros(2, np.float32)}}}


def test_downsample_pads_below_and_right_only():
    x = np.random.default_rng(0).standard_normal((1, 6, 4, 2)).astype(np.float32)
    np.testing.assert_array_equal(
        jax.jit(Downsample().apply)(kernel_with((0, 0)), x), x[:, ::2, ::2]
    )
    last = np.asarray(jax.jit(Downsample().apply)(kernel_with((2, 2)), x))
    np.testing.assert_array_equal(last[:, :-1, :-1], x[:, 2::2, 2::2])
    assert not last[:, -1].any() and not last[:, :, -1].any()


def test_upsample_repeats_pixels():
    x = np.random.default_rng(0).standard_normal((1, 3, 2, 2)).astype(np.float32)
    up = jax.jit(Upsample().apply)(kernel_with((1, 1)), x)
    np.testing.assert_array_equal(up, np.kron(x, np.ones((1, 2, 2, 1), np.float32)))


def test_attention_with_equal_scores_is_the_mean():
    x = np.random.default_rng(0).standard_normal((2, 3, 4, 8)).astype(np.float32)
    params = jax.jit(Attention(groups=2).init)(jax.random.key(0), x)["params"]
    params["to_q"]["kernel"] *= 0
    params["to_v"]["kernel"] = params["to_out_0"]["kernel"] = jnp.eye(8)
    grouped = x.reshape(2, 12, 2, 4).astype(np.float64)
    normed = (grouped - grouped.mean((1, 3), keepdims=True)) / np.sqrt(
        grouped.var((1, 3), keepdims=True) + 1e-6
    )
    mean = normed.reshape(2, 12, 8).mean(1)[:, None, None]
    found = jax.jit(Attention(groups=2).apply)({"params": params}, x)
    np.testing.assert_allclose(found, x + mean, atol=1e-6)
