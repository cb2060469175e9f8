"""Grids of native levels: f64 [steps + 1] on the host, most noise first, the clean end last."""

import jax
import jax.numpy as jnp
import numpy as np

ScanInputs = tuple[jax.Array, jax.Array, jax.Array]  # step index, level, next level


def rounded_timesteps(num_levels: int, steps: int) -> np.ndarray:
    """Return DDPM timesteps round(i (T-1)/(steps-1)), descending from T-1 to 0, then -1.

    Args:
      num_levels: T, number of training timesteps.
      steps: number of sampling steps, 1..T.

    Returns:
      f64 [steps + 1].

    Raises:
      ValueError: steps outside 1..T.

    Source: Nichol & Dhariwal 2021, arXiv 2102.09672.
    """
    _check_steps(steps, num_levels)
    return np.append(np.round(np.linspace(num_levels - 1, 0, steps)), -1.0)


def strided_timesteps(num_levels: int, steps: int) -> np.ndarray:
    """Return DDPM timesteps with the integer stride T/steps, descending to 0, then -1.

    Args:
      num_levels: T, number of training timesteps.
      steps: number of sampling steps, 1..T; must divide T.

    Returns:
      f64 [steps + 1].

    Raises:
      ValueError: steps outside 1..T, or no divisor of T.

    Source: Song, Meng & Ermon 2021, arXiv 2010.02502.
    """
    _check_steps(steps, num_levels)
    if num_levels % steps:
        raise ValueError(
            f"The sampler has {steps} steps; the number must be a divisor of the {num_levels} "
            "training timesteps."
        )
    return np.append(np.arange(0.0, num_levels, num_levels // steps)[::-1], -1.0)


def karras_sigmas(
    steps: int, sigma_min: float = 0.002, sigma_max: float = 80.0, rho: float = 7.0
) -> np.ndarray:
    """Return EDM's sigmas, equally spaced in sigma^(1/rho) from sigma_max to sigma_min, then 0.

    Args:
      steps: number of sampling steps, >= 1.
      sigma_min: last sigma before 0, > 0.
      sigma_max: first sigma, > sigma_min.
      rho: a positive number; a larger rho gives smaller steps near sigma_min.

    Returns:
      f64 [steps + 1].

    Raises:
      ValueError: an argument outside its range.

    Source: Karras et al. 2022, arXiv 2206.00364, equation 5.
    """
    _check_steps(steps)
    if not (0 < sigma_min < sigma_max and rho > 0):
        raise ValueError(
            f"The EDM grid has sigma_min {sigma_min}, sigma_max {sigma_max} and rho {rho}; they "
            "must satisfy 0 < sigma_min < sigma_max and rho > 0. The paper has 0.002, 80 and 7."
        )
    ramp = np.linspace(sigma_max ** (1 / rho), sigma_min ** (1 / rho), steps)
    return np.append(ramp**rho, 0.0)


def uniform_times(steps: int) -> np.ndarray:
    """Return flow-matching times, equally spaced from 1 to 0: f64 [steps + 1].

    Args:
      steps: number of sampling steps, >= 1.

    Raises:
      ValueError: steps < 1.
    """
    _check_steps(steps)
    return np.linspace(1.0, 0.0, steps + 1)


def uniform_times_to(steps: int, last: float) -> np.ndarray:
    """Return flow-matching times, equally spaced from 1 to `last`, then 0: f64 [steps + 1].

    Args:
      steps: number of sampling steps, >= 1.
      last: size of the last step, in (0, 1); 0.04 in the paper.

    Raises:
      ValueError: an argument outside its range.

    Source: Ma et al. 2024, arXiv 2401.08740.
    """
    _check_steps(steps)
    if not 0 < last < 1:
        raise ValueError(
            f"The last step of the grid is {last}; it must lie between 0 and 1. SiT has 0.04."
        )
    return np.append(np.linspace(1.0, last, steps), 0.0)


def _check_steps(steps: int, most: int | None = None) -> None:
    if steps < 1 or (most is not None and steps > most):
        expected = "at least 1" if most is None else f"between 1 and {most}"
        raise ValueError(f"The sampler has {steps} steps; the number must be {expected}.")


def scan_inputs(levels: np.ndarray) -> ScanInputs:
    """Return the inputs of a sampler's scan: step indices int32[n], levels and next levels f32[n].

    Args:
      levels: [n + 1] native levels, strictly decreasing.

    Raises:
      ValueError: fewer than two levels, or levels that are not strictly decreasing.
    """
    levels = np.asarray(levels)
    if levels.ndim != 1 or len(levels) < 2 or not np.all(np.diff(levels) < 0):
        raise ValueError(
            f"The sampler's levels, of shape {levels.shape}, must be at least two numbers in "
            "strictly decreasing order; use a grid of cdt.sampling.grids."
        )
    levels = levels.astype(np.float32)
    return jnp.arange(len(levels) - 1), jnp.asarray(levels[:-1]), jnp.asarray(levels[1:])
