"""Conversion between pixels and x0."""

import jax.numpy as jnp
import numpy as np

from cdt.diffusion.pixels import to_float, to_uint8


def test_to_float():
    np.testing.assert_allclose(to_float(jnp.array([0, 255, 51], jnp.uint8)), [-1, 1, -0.6])


def test_every_pixel_is_recovered_and_values_outside_are_clipped():
    pixels = jnp.arange(256, dtype=jnp.uint8)
    np.testing.assert_array_equal(to_uint8(to_float(pixels)), pixels)
    np.testing.assert_array_equal(to_uint8(jnp.array([-1.5, 1.5])), [0, 255])
