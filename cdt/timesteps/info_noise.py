"""InfoNoise: train where the conditional entropy of the data falls fastest (Raya et al. 2026)."""

from collections.abc import Callable
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import Array

from cdt.timesteps import bins
from cdt.timesteps.base import Density, Draw, Feedback


class InfoNoiseState(NamedTuple):
    """What is known of the entropy profile, and the probabilities in use."""

    eps_error: bins.BinMeans  # of |eps_hat - eps|^2 summed over dimensions: mmse(s) / s^2
    mass: Array  # f32[K], probability of each bin of u
    age: Array  # int32[], updates since `mass` was computed


def info_noise(
    knots: np.ndarray,
    log_s: np.ndarray,
    x0_weight: np.ndarray,
    decay: float = 0.99,
    warmup: int = 10,
    update_every: int = 50,
    uniform_fraction: float = 0.001,
    tail: float = 0.002,
) -> Density:
    """pi proportional to rho / w over bins of equal width in ln s, s = sigma / alpha.

    By I-MMSE the conditional entropy of the data falls, per unit of ln s, by mmse(s) / s^2 nats,
    which is the squared error of eps summed over dimensions: the losses tell it for free. With
    g = s^3 / (s^3 + c^3), c the largest s where mmse / s^3 is still `tail` of its maximum,
    rho = mmse / s^2 * g is the target, and dividing by w, the weight that the loss puts on the
    unweighted error of x0, makes levels count as rho in the objective. The importance weight is 1.

    Args:
      knots: f32[K+1], edges of the bins in u from 0 to 1; equal steps of ln s but for the ends.
      log_s: f64[K], ln s in the middle of each bin.
      x0_weight: f64[K], w in the middle of each bin; > 0.
      decay: of the profile's averages, per observed error.
      warmup: errors a bin, on average, before the first look at the profile; uniform until then.
        Bins never drawn are interpolated.
      update_every: steps between two looks at the profile.
      uniform_fraction: fraction of the uniform density, so that no bin is forgotten for good.
      tail: see c.

    Source: Raya et al. 2026, arXiv 2602.18647; g, c and 1/w from its appendix. Smoothing and
    update interval are not stated there.

    Raises:
      ValueError: the tables do not fit each other, or an option is out of its range.
    """
    if not len(knots) - 1 == len(log_s) == len(x0_weight):
        raise ValueError(
            f"InfoNoise was given {len(knots) - 1} bins but {len(log_s)} values of ln s and "
            f"{len(x0_weight)} weights; the three must agree."
        )
    if not (0.0 <= decay < 1.0 and 0.0 <= uniform_fraction < 1.0 and update_every >= 1):
        raise ValueError(
            f"InfoNoise has decay {decay:g}, uniform fraction {uniform_fraction:g} and update "
            f"interval {update_every}; the first two must lie in [0, 1), the last be at least 1."
        )
    widths = jnp.asarray(np.diff(knots), jnp.float32)
    s = np.exp(log_s)
    s32 = jnp.asarray(s, jnp.float32)
    inverse_s = jnp.asarray(1.0 / s, jnp.float32)
    inverse_weight = jnp.asarray(1.0 / x0_weight, jnp.float32)

    def profile_mass(eps_error: bins.BinMeans) -> Array:
        fall = bins.interpolated(eps_error)
        ratio = fall * inverse_s  # mmse / s^3
        c = jnp.max(jnp.where(ratio >= tail * jnp.max(ratio), s32, 0.0))
        gate = 1.0 / (1.0 + (c * inverse_s) ** 3)
        return bins.normalised(fall * gate * inverse_weight, widths, uniform_fraction)

    def init() -> InfoNoiseState:
        return InfoNoiseState(bins.no_means(len(s)), widths, jnp.int32(0))

    def update(state: InfoNoiseState, draw: Draw, feedback: Feedback) -> InfoNoiseState:
        index = bins.bin_index(draw.u, knots)
        eps_error = bins.observe(state.eps_error, index, feedback.eps_error, decay)
        # Equal steps of ln s are of very unequal width in u: to wait until each bin was drawn would
        # take thousands of steps, and for ever where a curriculum has just opened it.
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
    log_snr: Callable[[np.ndarray], np.ndarray], num_bins: int, margin: float = 1e-3
) -> tuple[np.ndarray, np.ndarray]:
    """(knots f32[K+1] in u, ln s f64[K] in the bins' middles) for `info_noise`.

    Equal steps of ln s = -log SNR / 2 between u = margin and u = 1 - margin; the outermost bins
    reach on to u = 0 and 1, where s may be 0 or infinite.

    Args:
      log_snr: u f64 -> log SNR, decreasing, as `Process.log_snr`.
      num_bins: K.
      margin: see above.

    Raises:
      ValueError: fewer than two bins, or more than a discrete family's levels can tell apart.
    """
    if num_bins < 2:
        raise ValueError(f"InfoNoise was given {num_bins} bins but needs at least two.")
    grid = np.linspace(margin, 1.0 - margin, 100_001)
    log_s = -0.5 * np.asarray(log_snr(grid), np.float64)
    edges = np.linspace(log_s[0], log_s[-1], num_bins + 1)
    knots = np.interp(edges, log_s, grid)
    knots[0], knots[-1] = 0.0, 1.0
    knots = knots.astype(np.float32)
    if not np.all(np.diff(knots) > 0):
        raise ValueError(f"{num_bins} bins of ln s are too many for float32 edges in u.")
    return knots, (edges[1:] + edges[:-1]) / 2
