"""Conversion between pixels, the raw latents of an autoencoder and the latents of a model."""

from typing import NamedTuple

import jax
import jax.numpy as jnp


class Scaling(NamedTuple):
    """Pixel range of an autoencoder, and x = (z - mean) * scale from its raw latents z.

    The mean and scale of z are valid for this pixel range only.

    Attributes:
      low: input of the autoencoder for a pixel of 0.
      high: input of the autoencoder for a pixel of 255.
      mean: one number per channel of z, or one for all channels.
      scale: one number per channel of z, or one for all channels.
    """

    low: float
    high: float
    mean: tuple[float, ...]
    scale: tuple[float, ...]


def constant_scale(scale: float = 0.18215) -> Scaling:
    """Return the scaling x = scale * z, for pixels in [-1, 1].

    Args:
      scale: a positive number. The default gives latents of about unit variance with the
        autoencoder of Stable Diffusion 1 and 2.

    Raises:
      ValueError: scale <= 0.

    Source: Rombach et al. 2022, arXiv 2112.10752, section D.1.
    """
    if not scale > 0:
        raise ValueError(f"The scale of latents is {scale}; it must be positive.")
    return Scaling(-1.0, 1.0, (0.0,), (float(scale),))


def edm2_whitening() -> Scaling:
    """Return EDM2's scaling to mean 0 and standard deviation 0.5 in each channel.

    The statistics are those of sd-vae-ft-mse on ImageNet in EDM2's code. They hold for pixels in
    [0, 1], which is the range that EDM2's code passes to the autoencoder, although the autoencoder
    was trained on [-1, 1].

    Source: Karras et al. 2024, arXiv 2312.02696.
    """
    std = (4.17, 4.62, 3.71, 3.28)
    return Scaling(0.0, 1.0, (5.81, 3.25, 0.12, -2.15), tuple(0.5 / s for s in std))


def encoder_input(scaling: Scaling, images: jax.Array) -> jax.Array:
    """Convert pixels uint8[...] to the autoencoder's input, f32[...] in [low, high]."""
    return images.astype(jnp.float32) * ((scaling.high - scaling.low) / 255.0) + scaling.low


def decoded_pixels(scaling: Scaling, decoded: jax.Array) -> jax.Array:
    """Convert the autoencoder's output f32[...] to the nearest pixels, uint8[...]."""
    unit = (decoded - scaling.low) / (scaling.high - scaling.low)
    return jnp.clip(255.0 * unit + 0.5, 0.0, 255.0).astype(jnp.uint8)


def scale_latents(scaling: Scaling, z: jax.Array) -> jax.Array:
    """Convert raw latents z f32[..., C] to latents of the model, f32[..., C]."""
    return (z - jnp.array(scaling.mean)) * jnp.array(scaling.scale)


def unscale_latents(scaling: Scaling, x: jax.Array) -> jax.Array:
    """Convert latents of the model f32[..., C] to raw latents; inverse of `scale_latents`."""
    return x / jnp.array(scaling.scale) + jnp.array(scaling.mean)


def posterior_sample(moments: jax.Array, key: jax.Array) -> jax.Array:
    """Draw raw latents z = mean + std * noise.

    Args:
      moments: float[..., 2C]; the last axis holds C means, then C standard deviations.
      key: PRNG key of the noise.

    Returns:
      f32[..., C].
    """
    mean, std = jnp.split(moments.astype(jnp.float32), 2, axis=-1)
    return mean + std * jax.random.normal(key, mean.shape)
