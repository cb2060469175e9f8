"""The logit-normal density: emphasis on the middle noise levels (Esser et al. 2024)."""

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.scipy.special import ndtr, ndtri

from cdt.timesteps.base import Density, State


def logit_normal(mean: float = 0.0, std: float = 1.0) -> Density:
    """u = sigmoid(mean + std z), z ~ N(0, 1) (Esser et al. 2024, arXiv 2403.03206, equation 19).

    Meant to change the objective, so the importance weight is 1. Has no state.

    Args:
      mean: negative moves the emphasis to less noise.
      std: width, > 0.

    Raises:
      ValueError: if `std` is not positive.
    """
    if not std > 0:
        raise ValueError(f"The logit-normal density has std {std:g}; it must be positive.")
    below_one = np.nextafter(np.float32(1), np.float32(0))

    def cdf(state: State, u: Array) -> Array:
        # log(u) - log1p(-u) is -inf and inf at the ends, where the distribution is 0 and 1.
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
