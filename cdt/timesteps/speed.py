"""SpeeD (Wang et al. 2024): the noisiest timesteps drawn less often, half of the batch as duals;
and the loss weight that belongs to it.

Source: arXiv 2405.17403, "asymmetric sampling" and "change-aware weighting"; duals and their centre
as in the code that its authors published.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from cdt.timesteps.base import Draw, State, TimestepSampler

# The published threshold is 1e-4 a timestep at T = 1000; in t / T it means the same for every T.
_FLAT_SLOPE = 0.1


def speed(noise_variances: np.ndarray, tau: int = 700, k: float = 2.0) -> TimestepSampler:
    """Half of the batch from p(t), proportional to k for t < tau and to 1 from there on; the other
    half are the duals of those, |t - m| with m where the noise has stopped growing.

    Of n levels the first n // 2 + 1 are drawn and the duals follow in their order, cut to n. A dual
    may lie anywhere, so this draws from all levels or not at all. The method's other half is
    `speed_weight`.

    Args:
      noise_variances: f64[T], 1 - abar of the timesteps t = 0..T-1.
      tau: 0 < tau < T.
      k: > 0.

    Raises:
      ValueError: tau or k out of range, or noise that grows until the end.
    """
    num_levels = len(noise_variances)
    if not 0 < tau < num_levels:
        raise ValueError(
            f"SpeeD's tau is {tau}; it must lie between 1 and {num_levels - 1}, within the "
            f"{num_levels} timesteps."
        )
    if not k > 0:
        raise ValueError(f"SpeeD's k is {k:g}; it must be positive.")
    middle = _dual_centre(noise_variances)
    often = k * tau / (k * tau + num_levels - tau)  # the probability of t < tau

    def sample(state: State, key: Array, n: int) -> Draw:
        q = jax.random.uniform(key, (n // 2 + 1,), jnp.float32)
        t = jnp.floor(jnp.interp(q, np.array([0, often, 1]), np.array([0, tau, num_levels])))
        t = jnp.minimum(t, num_levels - 1)
        t = jnp.concatenate([t, jnp.abs(t - middle)])[:n]
        u = (t + 0.5) / num_levels
        return Draw(u, jnp.ones_like(u))

    return TimestepSampler(
        init=lambda: (),
        sample=sample,
        update=lambda state, draw, feedback, step: state,
        metrics=lambda state: {},
    )


def speed_weight(
    noise_variances: np.ndarray, tau: int = 700, lam: float = 0.6
) -> Callable[[Array], Array]:
    """The loss weight of each timestep f32[B] -> f32[B], whatever the network predicts: below tau
    it rises from 1 - lam to lam with the growth of the noise, from tau on it is 1.

    Below tau it is (1 - lam) + (2 lam - 1) (g - min g) / (max g - min g), with g the gradient of
    1 - abar and its extremes those of all timesteps.

    Args:
      noise_variances: f64[T], 1 - abar of the timesteps t = 0..T-1.
      tau: first timestep of weight 1.
      lam: in [0, 1].

    Raises:
      ValueError: lam outside [0, 1].
    """
    if not 0 <= lam <= 1:
        raise ValueError(f"SpeeD's lam is {lam:g}; it must lie in [0, 1].")
    growth = np.gradient(noise_variances)
    growth = (growth - growth.min()) / (growth.max() - growth.min())
    table = np.where(np.arange(len(growth)) < tau, 1 - lam + (2 * lam - 1) * growth, 1.0)
    table = table.astype(np.float32)
    return lambda level: jnp.asarray(table)[level.astype(jnp.int32)]


def _dual_centre(noise_variances: np.ndarray) -> int:
    """m, one past the first timestep at which sqrt(1 - abar) has become flat: 642 for the linear
    schedule of 1,000 timesteps, 959 for the cosine one."""
    num_levels = len(noise_variances)
    flat = np.flatnonzero(np.gradient(np.sqrt(noise_variances)) * num_levels < _FLAT_SLOPE)
    if not len(flat) or flat[0] + 1 == num_levels:
        raise ValueError(
            "SpeeD needs a schedule whose noise stops growing before the last of its "
            f"{num_levels} timesteps; use the linear or cosine one with more of them."
        )
    return int(flat[0]) + 1
