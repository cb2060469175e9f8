"""What a model is trained on in place of an autoencoder's raw latents, and how pixels enter it."""

from typing import NamedTuple

import jax
import jax.numpy as jnp


class Scaling(NamedTuple):
    """Raw latents z of an autoencoder <-> latents x = (z - mean) * scale of a model.

    The statistics of z depend on what the autoencoder is given, so the range of the pixels belongs
    to them.
    """

    low: float  # what the autoencoder is given for a pixel of 0
    high: float  # and for one of 255
    mean: tuple[float, ...]  # of z, by channel; one number stands for all channels
    scale: tuple[float, ...]  # the same


def constant_scale(scale: float = 0.18215) -> Scaling:
    """x = scale * z, pixels in [-1, 1] (Rombach et al. 2022, arXiv 2112.10752, section D.1).

    The default gives about unit variance with the autoencoder of Stable Diffusion 1 and 2.

    Raises:
      ValueError: the scale is not positive.
    """
    if not scale > 0:
        raise ValueError(f"the scale of latents is {scale}; it must be positive.")
    return Scaling(-1.0, 1.0, (0.0,), (float(scale),))


def edm2_whitening() -> Scaling:
    """Mean 0 and standard deviation 0.5 in each channel (Karras et al. 2024, arXiv 2312.02696).

    The statistics are those of sd-vae-ft-mse on ImageNet as EDM2's released code states them. That
    code gives the autoencoder pixels in [0, 1], although it was trained on [-1, 1]: with the usual
    range the latents would be neither centred nor of that deviation.
    """
    std = (4.17, 4.62, 3.71, 3.28)
    return Scaling(0.0, 1.0, (5.81, 3.25, 0.12, -2.15), tuple(0.5 / s for s in std))


def encoder_input(scaling: Scaling, images: jax.Array) -> jax.Array:
    """Pixels uint8[...] -> the f32[...] in [low, high] that the autoencoder encodes."""
    return images.astype(jnp.float32) * ((scaling.high - scaling.low) / 255.0) + scaling.low


def decoded_pixels(scaling: Scaling, decoded: jax.Array) -> jax.Array:
    """What the autoencoder decoded, f32[...] -> the nearest uint8[...]."""
    unit = (decoded - scaling.low) / (scaling.high - scaling.low)
    return jnp.clip(255.0 * unit + 0.5, 0.0, 255.0).astype(jnp.uint8)


def scale_latents(scaling: Scaling, z: jax.Array) -> jax.Array:
    """Raw latents f32[..., C] -> latents of the model."""
    return (z - jnp.array(scaling.mean)) * jnp.array(scaling.scale)


def unscale_latents(scaling: Scaling, x: jax.Array) -> jax.Array:
    """Latents of the model f32[..., C] -> raw latents: `scale_latents` undone."""
    return x / jnp.array(scaling.scale) + jnp.array(scaling.mean)


def posterior_sample(moments: jax.Array, key: jax.Array) -> jax.Array:
    """A draw of raw latents z = mean + std * noise.

    Args:
      moments: float[..., 2C], mean and standard deviation along the last axis.
      key: of the noise.

    Returns:
      f32[..., C].
    """
    mean, std = jnp.split(moments.astype(jnp.float32), 2, axis=-1)
    return mean + std * jax.random.normal(key, mean.shape)
