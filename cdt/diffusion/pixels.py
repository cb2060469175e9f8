"""Pixels <-> x0: images as bytes, and as the network is trained on them."""

from collections.abc import Callable

import jax.numpy as jnp
from jax import Array

# (images of a batch [B, ...], PRNG key) -> x0 f32[B, H, W, C]. The key is for images that are
# stored as distributions, such as the moments of latents.
ToX0 = Callable[[Array, Array], Array]


def to_float(image: Array) -> Array:
    """Convert uint8[...] pixels to f32[...] in [-1, 1]."""
    return image.astype(jnp.float32) / 127.5 - 1.0


def to_uint8(x0: Array) -> Array:
    """Convert f32[...] to the nearest pixels uint8[...], clipped to [-1, 1]: `to_float` undone."""
    return jnp.clip(127.5 * x0 + 128.0, 0.0, 255.0).astype(jnp.uint8)


def pixels_to_x0(image: Array, key: Array) -> Array:
    """Convert a batch of pixels to x0: the `ToX0` that needs no key."""
    return to_float(image)
