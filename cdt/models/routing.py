"""Denoising task routing (DTR): each noise level passes its own channels through the blocks."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

# (time input of the network [B], width D) -> mask f32[B, D] of zeros and ones.
Routing = Callable[[jax.Array, int], jax.Array]


def routing_mask(
    position: jax.Array, width: int, alpha: float = 4.0, beta: float = 0.8
) -> jax.Array:
    """1 on the channels [offset, offset + kept) of each example, 0 elsewhere.

    kept = floor(beta D), offset = round(position^alpha (D - kept)): the nearer two levels, the more
    channels they share. With alpha > 1 the window moves fastest at the noisy end.

    Args:
      position: f32[B] in [0, 1], 0 clean: t / (T - 1) of DDPM.
      width: D, number of channels.
      alpha: how the window's place depends on the level.
      beta: fraction of the channels that a level uses.

    Returns:
      f32[B, D].

    Raises:
      ValueError: if beta leaves no channel.

    Source: Park et al. 2023, arXiv 2310.07138.
    """
    kept = int(beta * width)
    if kept < 1:
        raise ValueError(
            f"task routing's beta is {beta:g}, which leaves none of {width} channels; give at "
            f"least {1 / width:g}."
        )
    offset = jnp.round(position.astype(jnp.float32) ** alpha * (width - kept))
    place = jnp.arange(width) - offset[:, None]
    return ((place >= 0) & (place < kept)).astype(jnp.float32)


def task_routing(
    position: Callable[[jax.Array], jax.Array], alpha: float = 4.0, beta: float = 0.8
) -> Routing:
    """The masks of `routing_mask` as a network asks for them.

    Args:
      position: the network's time input -> f32 in [0, 1], 0 clean.
      alpha, beta: see `routing_mask`; alpha > 0, beta in (0, 1].

    Raises:
      ValueError: alpha or beta out of range.
    """
    if not alpha > 0:
        raise ValueError(f"task routing's alpha is {alpha:g}; it must be positive.")
    if not 0 < beta <= 1:
        raise ValueError(f"task routing's beta is {beta:g}; it must lie in (0, 1].")
    return lambda time, width: routing_mask(position(time), width, alpha, beta)
