"""Denoising task routing (DTR): each noise level uses a part of the channels in every block."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

# (time input of the network [B], width D) -> mask f32[B, D] of zeros and ones.
Routing = Callable[[jax.Array, int], jax.Array]


def routing_mask(
    position: jax.Array, width: int, alpha: float = 4.0, beta: float = 0.8
) -> jax.Array:
    """Return the mask of the channels that each example uses: 1 for a window of channels, else 0.

    The window is [offset, offset + kept) with kept = floor(beta D) and
    offset = round(position^alpha (D - kept)). Similar noise levels use similar channels.

    Args:
      position: f32[B] in [0, 1], 0 clean; t / (T - 1) for DDPM.
      width: D, number of channels.
      alpha: exponent of the position; if it is above 1, the window moves fastest at the noisy end.
      beta: fraction of the channels that a level uses, in (0, 1].

    Returns:
      f32[B, D].

    Raises:
      ValueError: beta D < 1, so that no channel is used.

    Source: Park et al. 2023, arXiv 2310.07138.
    """
    kept = int(beta * width)
    if kept < 1:
        raise ValueError(
            f"Task routing's beta is {beta:g}, which leaves none of {width} channels; it must be "
            f"at least {1 / width:g}."
        )
    offset = jnp.round(position.astype(jnp.float32) ** alpha * (width - kept))
    place = jnp.arange(width) - offset[:, None]
    return ((place >= 0) & (place < kept)).astype(jnp.float32)


def task_routing(
    position: Callable[[jax.Array], jax.Array], alpha: float = 4.0, beta: float = 0.8
) -> Routing:
    """Return routing(time input [B], D) -> mask f32[B, D], see `routing_mask`.

    Args:
      position: time input of the network -> f32 in [0, 1], 0 clean; such as `Process.position`.
      alpha: exponent of the position, > 0.
      beta: fraction of the channels that a level uses, in (0, 1].

    Raises:
      ValueError: alpha or beta out of range.
    """
    if not alpha > 0:
        raise ValueError(f"Task routing's alpha is {alpha:g}; it must be positive.")
    if not 0 < beta <= 1:
        raise ValueError(f"Task routing's beta is {beta:g}; it must lie in (0, 1].")
    return lambda time, width: routing_mask(position(time), width, alpha, beta)
