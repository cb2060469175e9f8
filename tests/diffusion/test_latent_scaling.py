"""Scaling of latents and pixels: round trips, published statistics, sampled moments."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cdt.diffusion.latent_scaling import (
    constant_scale,
    decoded_pixels,
    edm2_whitening,
    encoder_input,
    posterior_sample,
    scale_latents,
    unscale_latents,
)

SCALINGS = pytest.mark.parametrize("scaling", [constant_scale(), edm2_whitening()], ids=str)


@SCALINGS
def test_every_pixel_comes_back(scaling):
    pixels = jnp.arange(256, dtype=jnp.uint8)
    inputs = encoder_input(scaling, pixels)
    assert inputs[0] == scaling.low and inputs[-1] == scaling.high
    np.testing.assert_array_equal(decoded_pixels(scaling, inputs), pixels)
    half = 0.49 * (scaling.high - scaling.low) / 255
    np.testing.assert_array_equal(decoded_pixels(scaling, inputs + half), pixels)
    np.testing.assert_array_equal(decoded_pixels(scaling, inputs - half), pixels)
    beyond = jnp.array([scaling.low - 9, scaling.high + 9])
    np.testing.assert_array_equal(decoded_pixels(scaling, beyond), [0, 255])


@SCALINGS
def test_unscaling_inverts_scaling(scaling):
    z = 5 * jax.random.normal(jax.random.key(0), (2, 3, 3, 4))
    np.testing.assert_allclose(unscale_latents(scaling, scale_latents(scaling, z)), z, atol=1e-5)


def test_constant_scale():
    np.testing.assert_allclose(
        scale_latents(constant_scale(0.5), jnp.array([[2.0, -4.0]])), [[1, -2]]
    )
    for scale in (0.0, -1.0, float("nan")):
        with pytest.raises(ValueError, match="positive"):
            constant_scale(scale)


def test_edm2_whitens_latents_of_its_statistics():
    mean, std = np.array([5.81, 3.25, 0.12, -2.15]), np.array([4.17, 4.62, 3.71, 3.28])
    z = mean + std * np.random.default_rng(0).standard_normal((20_000, 4))
    x = np.asarray(scale_latents(edm2_whitening(), jnp.asarray(z, jnp.float32)))
    np.testing.assert_allclose(x.mean(0), 0, atol=0.02)
    np.testing.assert_allclose(x.std(0), 0.5, atol=0.02)


def test_posterior_samples_have_the_moments():
    mean, std = np.array([-3.0, 0.25]), np.array([0.5, 2.0])
    moments = jnp.broadcast_to(jnp.array([*mean, *std], jnp.float16), (200, 100, 4))
    z = np.asarray(posterior_sample(moments, jax.random.key(0)))
    assert z.shape == (200, 100, 2) and z.dtype == np.float32
    error = std / np.sqrt(20_000)
    assert np.all(np.abs(z.mean((0, 1)) - mean) < 5 * error)
    assert np.all(np.abs(z.std((0, 1)) - std) < 5 * error)
    again, other = (posterior_sample(moments, jax.random.key(seed)) for seed in (0, 1))
    np.testing.assert_array_equal(z, again)
    assert np.abs(z - other).min() > 0
