"""InfoNoise: a density that follows how fast the conditional entropy of the data falls.

Source: Raya et al. 2026, arXiv 2602.18647.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import Array

from cdt.timesteps import bins
from cdt.timesteps.base import Density, Draw, Feedback

_TAIL = 0.002  # defines c, see `info_noise`; from the paper's appendix
# The paper does not give the smoothing of the profile; these are our choice.
_DECAY = 0.99  # per observed error
_UNIFORM_FRACTION = 0.001  # of the mixture, so that every bin is drawn from time to time
# log_s_bins spaces its bins between these quantiles of u: at 0 and 1 ln s can be infinite.
_MARGIN = 1e-3


class InfoNoiseState(NamedTuple):
    """Estimate of the entropy profile, and the current probabilities of the bins.

    Attributes:
      eps_error: mean of |eps_hat - eps|^2 summed over dimensions, an estimate of mmse(s) / s^2.
      mass: f32[K], probability of each bin.
      age: int32[], updates since `mass` was computed.
    """

    eps_error: bins.BinMeans
    mass: Array
    age: Array


def info_noise(
    knots: np.ndarray,
    log_s: np.ndarray,
    x0_weight: np.ndarray,
    warmup: int = 10,
    update_every: int = 50,
) -> Density:
    """Return the density proportional to rho / w in bins of equal width in ln s, s = sigma / alpha.

    - mmse(s) / s^2 is the fall of the data's conditional entropy per unit of ln s, in nats
      (I-MMSE). It equals the squared error of eps summed over dimensions, which the train step
      measures anyway.
    - rho = mmse / s^2 * g is the target, with g = s^3 / (s^3 + c^3), where c is the largest s with
      mmse / s^3 >= 0.002 of its maximum.
    - w is the weight of the x0 error in the loss. After division by w, each level contributes to
      the objective in proportion to rho.

    It changes the objective: the importance weight is 1.

    Args:
      knots: f32[K+1], edges of the bins in u from 0 to 1, see `log_s_bins`.
      log_s: f64[K], ln s in the middle of each bin.
      x0_weight: f64[K] > 0, w in the middle of each bin.
      warmup: the density is uniform until the bins have this many errors on average. Bins without
        errors are interpolated.
      update_every: steps between two updates of the probabilities, >= 1.

    Raises:
      ValueError: the three tables differ in their number of bins, or update_every < 1.

    Source: Raya et al. 2026, arXiv 2602.18647; g, c and 1/w from its appendix, which does not give
    the warm-up and the update interval.
    """
    if not len(knots) - 1 == len(log_s) == len(x0_weight):
        raise ValueError(
            f"InfoNoise has {len(knots) - 1} bins, {len(log_s)} values of ln s and "
            f"{len(x0_weight)} weights; the three numbers must be equal."
        )
    if update_every < 1:
        raise ValueError(f"InfoNoise has update_every {update_every}; it must be at least 1.")
    widths = jnp.asarray(np.diff(knots), jnp.float32)
    s = np.exp(log_s)
    s32 = jnp.asarray(s, jnp.float32)
    inverse_s = jnp.asarray(1.0 / s, jnp.float32)
    inverse_weight = jnp.asarray(1.0 / x0_weight, jnp.float32)

    def profile_mass(eps_error: bins.BinMeans) -> Array:
        fall = bins.interpolated(eps_error)
        ratio = fall * inverse_s  # mmse / s^3
        c = jnp.max(jnp.where(ratio >= _TAIL * jnp.max(ratio), s32, 0.0))
        gate = 1.0 / (1.0 + (c * inverse_s) ** 3)
        return bins.normalised(fall * gate * inverse_weight, widths, _UNIFORM_FRACTION)

    def init() -> InfoNoiseState:
        return InfoNoiseState(bins.empty_means(len(s)), widths, jnp.int32(0))

    def update(state: InfoNoiseState, draw: Draw, feedback: Feedback) -> InfoNoiseState:
        index = bins.bin_index(draw.u, knots)
        eps_error = bins.observe(state.eps_error, index, feedback.eps_error, _DECAY)
        # Not `bins.warm`: bins of equal width in ln s have very different widths in u. Waiting for
        # the narrowest would take thousands of steps, and again for each cluster that opens.
        warm = jnp.sum(eps_error.count) >= warmup * len(s)
        due = (state.age + 1 >= update_every) & warm
        return InfoNoiseState(
            eps_error,
            jnp.where(due, profile_mass(eps_error), state.mass),
            jnp.where(due, 0, state.age + 1),
        )

    def cdf(state: InfoNoiseState, u: Array) -> Array:
        return bins.cdf(state.mass, knots, u)

    return Density(
        init=init,
        cdf=cdf,
        icdf=lambda state, q: bins.icdf(state.mass, knots, q),
        objective_cdf=cdf,
        weight=lambda state, u: jnp.ones_like(u),
        update=update,
    )


def log_s_bins(
    log_snr: Callable[[np.ndarray], np.ndarray], num_bins: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return the bins of `info_noise`: (knots f32[K+1] in u, ln s f64[K] in their middles).

    The bins have equal width in ln s = -log SNR / 2 between u = 0.001 and u = 0.999. The outermost
    two extend to u = 0 and u = 1.

    Args:
      log_snr: u f64 -> log SNR f64, decreasing; such as `Process.log_snr`.
      num_bins: K >= 2.

    Raises:
      ValueError: K < 2, or so many bins that two edges are the same float32.
    """
    if num_bins < 2:
        raise ValueError(f"InfoNoise has {num_bins} bins; it needs at least two.")
    grid = np.linspace(_MARGIN, 1.0 - _MARGIN, 100_001)
    log_s = -0.5 * np.asarray(log_snr(grid), np.float64)
    edges = np.linspace(log_s[0], log_s[-1], num_bins + 1)
    knots = np.interp(edges, log_s, grid)
    knots[0], knots[-1] = 0.0, 1.0
    knots = knots.astype(np.float32)
    if not np.all(np.diff(knots) > 0):
        raise ValueError(
            f"InfoNoise has {num_bins} bins, which are too many for float32: two edges are equal; "
            "use fewer."
        )
    return knots, (edges[1:] + edges[:-1]) / 2
