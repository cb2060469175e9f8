"""Importance sampling by the second moment of the loss (Nichol & Dhariwal 2021, section 3.3)."""

import jax.numpy as jnp
import numpy as np
from jax import Array

from cdt.timesteps import bins
from cdt.timesteps.base import Density, Draw, Feedback


def second_moment(
    num_bins: int = 100, decay: float = 0.9, warmup: int = 10, uniform_fraction: float = 0.001
) -> Density:
    """p(u) proportional to sqrt(E[L^2]) on equal bins of u, mixed with a little of the uniform one.

    The importance weight 1 / p keeps the objective that of uniform sampling; only its variance
    changes. Uniform until every bin that is drawn at all has `warmup` losses. The original keeps
    the last ten losses of each timestep; an exponential average per bin needs no ordered writes
    and copes with bins that a curriculum keeps closed.

    Args:
      num_bins: equal bins of u.
      decay: of the average of L^2, per loss.
      warmup: losses a bin needs.
      uniform_fraction: fraction of the uniform density in the mixture (the paper's code has 0.001).

    Source: Nichol & Dhariwal 2021, arXiv 2102.09672, equation 18.

    Raises:
      ValueError: no bin, or a decay or fraction outside [0, 1).
    """
    if num_bins < 1:
        raise ValueError(f"The second-moment density has {num_bins} bins; it needs at least one.")
    if not (0.0 <= decay < 1.0 and 0.0 <= uniform_fraction < 1.0):
        raise ValueError(
            f"The second-moment density has decay {decay:g} and uniform fraction "
            f"{uniform_fraction:g}; both must lie in [0, 1)."
        )
    knots = np.linspace(0.0, 1.0, num_bins + 1).astype(np.float32)
    widths = jnp.asarray(np.diff(knots))

    def mass(state: bins.BinMeans) -> Array:
        root = jnp.sqrt(bins.filled(state))
        learned = bins.normalised(root * widths, widths, uniform_fraction)
        return jnp.where(bins.warm(state, warmup), learned, widths)

    def weight(state: bins.BinMeans, u: Array) -> Array:
        return (widths / mass(state))[bins.bin_index(u, knots)]

    def update(state: bins.BinMeans, draw: Draw, feedback: Feedback) -> bins.BinMeans:
        return bins.observe(state, bins.bin_index(draw.u, knots), feedback.loss**2, decay)

    return Density(
        init=lambda: bins.no_means(num_bins),
        cdf=lambda state, u: bins.cdf(mass(state), knots, u),
        icdf=lambda state, q: bins.icdf(mass(state), knots, q),
        objective_cdf=lambda state, u: u,
        weight=weight,
        update=update,
    )
