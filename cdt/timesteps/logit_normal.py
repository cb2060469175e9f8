"""The logit-normal density over u, which emphasises middle noise levels (Esser et al. 2024)."""

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.scipy.special import ndtr, ndtri

from cdt.timesteps.base import Density, State


def logit_normal(mean: float = 0.0, std: float = 1.0) -> Density:
    """Return the density of u = sigmoid(mean + std z), z ~ N(0, 1); it has no state.

    It changes the objective: the importance weight is 1.

    Args:
      mean: mean of logit(u); a negative mean emphasises levels with less noise.
      std: standard deviation of logit(u), > 0.

    Raises:
      ValueError: std <= 0.

    Source: Esser et al. 2024, arXiv 2403.03206, equation 19.
    """
    if not std > 0:
        raise ValueError(f"The std of the logit-normal density is {std:g}; it must be positive.")
    below_one = np.nextafter(np.float32(1), np.float32(0))

    def cdf(state: State, u: Array) -> Array:
        # log(u) - log1p(-u) is -inf at u = 0 and inf at u = 1, where ndtr is 0 and 1.
        return ndtr((jnp.log(u) - jnp.log1p(-u) - mean) / std)

    def icdf(state: State, q: Array) -> Array:
        return jnp.minimum(jax.nn.sigmoid(mean + std * ndtri(q)), below_one)

    return Density(
        init=lambda: (),
        cdf=cdf,
        icdf=icdf,
        objective_cdf=cdf,
        weight=lambda state, u: jnp.ones_like(u),
        update=lambda state, draw, feedback: state,
    )
