"""Noise levels drawn independently from a density over all of u."""

import jax
import jax.numpy as jnp
from jax import Array

from cdt.timesteps.base import Density, Draw, State, TimestepSampler


def independent(density: Density) -> TimestepSampler:
    """Return the timestep sampler that draws every level independently from `density`.

    A level is u = F^-1(v) with v ~ Uniform[0, 1), float32. The state is that of the density.

    Args:
      density: density over u.
    """

    def sample(state: State, key: Array, n: int) -> Draw:
        u = density.icdf(state, jax.random.uniform(key, (n,), jnp.float32))
        return Draw(u, density.weight(state, u))

    return TimestepSampler(
        init=density.init,
        sample=sample,
        update=lambda state, draw, feedback, step: density.update(state, draw, feedback),
        metrics=lambda state: {},
    )
