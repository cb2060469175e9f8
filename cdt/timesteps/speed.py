"""SpeeD: a timestep sampler that draws the noisiest timesteps less often, and its loss weight.

Source: Wang et al. 2024, arXiv 2405.17403, "asymmetric sampling" and "change-aware weighting"; the
dual timesteps and their centre as in the authors' code.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from cdt.timesteps.base import Draw, State, TimestepSampler

# The authors' code has a threshold of 1e-4 per timestep at T = 1000. Per unit of t / T this is 0.1,
# for every T.
_FLAT_SLOPE = 0.1


def speed(noise_variances: np.ndarray, tau: int = 700, k: float = 2.0) -> TimestepSampler:
    """Return the timestep sampler of SpeeD, for DDPM; use it with the loss weight `speed_weight`.

    The first n // 2 + 1 of n timesteps are drawn from p(t), which is proportional to k for t < tau
    and to 1 for t >= tau. The others are the duals |t - m| of the first ones, in the same order,
    where m is the timestep at which the noise stops growing. A dual can be any timestep, so this
    sampler cannot be restricted to the open clusters of a curriculum.

    Args:
      noise_variances: f64[T], 1 - alpha_bar of the timesteps t = 0..T-1.
      tau: timestep, 0 < tau < T.
      k: how much more often a timestep below tau is drawn, > 0.

    Raises:
      ValueError: tau or k out of range, or a schedule whose noise grows until the last timestep.
    """
    num_levels = len(noise_variances)
    if not 0 < tau < num_levels:
        raise ValueError(
            f"SpeeD's tau is {tau}; it must lie between 1 and {num_levels - 1}, because the family "
            f"has {num_levels} timesteps."
        )
    if not k > 0:
        raise ValueError(f"SpeeD's k is {k:g}; it must be positive.")
    middle = _dual_centre(noise_variances)
    often = k * tau / (k * tau + num_levels - tau)  # probability of t < tau

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
    """Return the loss weight of SpeeD: timestep f32[B] -> f32[B], the same for every prediction.

    For t >= tau the weight is 1. For t < tau it is (1 - lam) + (2 lam - 1) (g - min g) /
    (max g - min g), where g is the gradient of 1 - alpha_bar; its minimum and maximum are over all
    timesteps.

    Args:
      noise_variances: f64[T], 1 - alpha_bar of the timesteps t = 0..T-1.
      tau: first timestep with weight 1.
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
    """Return m, one past the first timestep at which sqrt(1 - alpha_bar) is flat.

    With 1,000 timesteps m is 642 for the linear schedule and 959 for the cosine schedule.
    """
    num_levels = len(noise_variances)
    flat = np.flatnonzero(np.gradient(np.sqrt(noise_variances)) * num_levels < _FLAT_SLOPE)
    if not len(flat) or flat[0] + 1 == num_levels:
        raise ValueError(
            f"The noise of this schedule grows until the last of its {num_levels} timesteps; SpeeD "
            "needs one where it stops earlier: use linear or cosine with more timesteps."
        )
    return int(flat[0]) + 1
