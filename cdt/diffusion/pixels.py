"""Conversion between pixels (uint8) and x0, the float images that a model is trained on."""

from collections.abc import Callable

import jax.numpy as jnp
from jax import Array

# (images of a batch [B, ...], PRNG key) -> x0 f32[B, H, W, C]. The key is used where the batch
# holds distributions, such as the moments of latents.
ToX0 = Callable[[Array, Array], Array]


def to_float(image: Array) -> Array:
    """Convert pixels uint8[...] to f32[...] in [-1, 1]."""
    return image.astype(jnp.float32) / 127.5 - 1.0


def to_uint8(x0: Array) -> Array:
    """Convert f32[...], clipped to [-1, 1], to the nearest pixels uint8[...]."""
    return jnp.clip(127.5 * x0 + 128.0, 0.0, 255.0).astype(jnp.uint8)


def pixels_to_x0(image: Array, key: Array) -> Array:
    """Convert a batch of pixels uint8[B, H, W, C] to x0 f32[B, H, W, C]; the key is not used."""
    return to_float(image)
