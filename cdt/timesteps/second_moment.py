"""Importance sampling by the second moment of the loss (Nichol & Dhariwal 2021)."""

import jax.numpy as jnp
import numpy as np
from jax import Array

from cdt.timesteps import bins
from cdt.timesteps.base import Density, Draw, Feedback

# The paper's code keeps the last ten losses of each timestep and starts when it has all of them.
# Here L^2 is averaged per bin, over about ten losses: this needs no ordered writes, and also works
# when a curriculum keeps bins closed.
_DECAY = 0.9
_WARMUP = 10  # losses
_UNIFORM_FRACTION = 0.001  # of the mixture, as in the paper's code


def second_moment(num_bins: int = 100) -> Density:
    """Return the density proportional to sqrt(E[L^2]) in equal bins of u.

    It only reduces the variance: the importance weight 1/p keeps the objective of uniform sampling.
    It is uniform until every drawn bin has ten losses, and is mixed with 0.1 % of the uniform
    density.

    Args:
      num_bins: number of bins of equal width in u, >= 1.

    Raises:
      ValueError: num_bins < 1.

    Source: Nichol & Dhariwal 2021, arXiv 2102.09672, equation 18.
    """
    if num_bins < 1:
        raise ValueError(f"The second-moment density has {num_bins} bins; it needs at least one.")
    knots = np.linspace(0.0, 1.0, num_bins + 1).astype(np.float32)
    widths = jnp.asarray(np.diff(knots))

    def mass(state: bins.BinMeans) -> Array:
        root = jnp.sqrt(bins.filled(state))
        learned = bins.normalised(root * widths, widths, _UNIFORM_FRACTION)
        return jnp.where(bins.warm(state, _WARMUP), learned, widths)

    def weight(state: bins.BinMeans, u: Array) -> Array:
        return (widths / mass(state))[bins.bin_index(u, knots)]

    def update(state: bins.BinMeans, draw: Draw, feedback: Feedback) -> bins.BinMeans:
        return bins.observe(state, bins.bin_index(draw.u, knots), feedback.loss**2, _DECAY)

    return Density(
        init=lambda: bins.empty_means(num_bins),
        cdf=lambda state, u: bins.cdf(mass(state), knots, u),
        icdf=lambda state, q: bins.icdf(mass(state), knots, q),
        objective_cdf=lambda state, u: u,
        weight=weight,
        update=update,
    )
