"""Grids of native levels: float64 NumPy [steps + 1], noisiest first, the clean end last."""

import jax
import jax.numpy as jnp
import numpy as np

ScanInputs = tuple[jax.Array, jax.Array, jax.Array]  # step index, level, next level


def rounded_timesteps(num_levels: int, steps: int) -> np.ndarray:
    """DDPM timesteps t_i = round(i (T-1)/(steps-1)) descending, then -1 (Nichol & Dhariwal 2021).

    Raises:
      ValueError: unless 1 <= steps <= T.
    """
    _check_steps(steps, num_levels)
    return np.append(np.round(np.linspace(num_levels - 1, 0, steps)), -1.0)


def strided_timesteps(num_levels: int, steps: int) -> np.ndarray:
    """DDPM timesteps at integer stride T/steps from 0, descending, then -1 (Song et al. 2021).

    Raises:
      ValueError: unless 1 <= steps <= T and steps divides T.
    """
    _check_steps(steps, num_levels)
    if num_levels % steps:
        raise ValueError(
            f"strided timesteps were given {steps} steps but need a divisor of the {num_levels} "
            "training timesteps; choose one"
        )
    return np.append(np.arange(0.0, num_levels, num_levels // steps)[::-1], -1.0)


def karras_sigmas(
    steps: int, sigma_min: float = 0.002, sigma_max: float = 80.0, rho: float = 7.0
) -> np.ndarray:
    """EDM's sigmas: sigma^(1/rho) equally spaced, then 0 (Karras et al. 2022, equation 5).

    Raises:
      ValueError: unless steps >= 1, 0 < sigma_min < sigma_max and rho > 0.
    """
    _check_steps(steps)
    if not (0 < sigma_min < sigma_max and rho > 0):
        raise ValueError(
            f"EDM sigmas were given sigma_min = {sigma_min}, sigma_max = {sigma_max}, rho = {rho} "
            "but need 0 < sigma_min < sigma_max and rho > 0; the paper has 0.002, 80 and 7"
        )
    ramp = np.linspace(sigma_max ** (1 / rho), sigma_min ** (1 / rho), steps)
    return np.append(ramp**rho, 0.0)


def uniform_times(steps: int) -> np.ndarray:
    """Flow times, equally spaced from 1 to 0.

    Raises:
      ValueError: unless steps >= 1.
    """
    _check_steps(steps)
    return np.linspace(1.0, 0.0, steps + 1)


def uniform_times_to(steps: int, last: float) -> np.ndarray:
    """Flow times, equally spaced from 1 to the start of the last step, then 0 (Ma et al. 2024).

    Args:
      last: size of the last step; 0.04 in the paper.

    Raises:
      ValueError: unless steps >= 1 and 0 < last < 1.
    """
    _check_steps(steps)
    if not 0 < last < 1:
        raise ValueError(
            f"flow times were given a last step of {last} but need one between 0 and 1; SiT has "
            "0.04"
        )
    return np.append(np.linspace(1.0, last, steps), 0.0)


def _check_steps(steps: int, most: int | None = None) -> None:
    if steps < 1 or (most is not None and steps > most):
        expected = "at least 1" if most is None else f"between 1 and {most}"
        raise ValueError(f"a sampler was given {steps} steps but needs {expected}; change steps")


def scan_inputs(levels: np.ndarray) -> ScanInputs:
    """What a sampler scans over: step indices int32[n], levels f32[n], next levels f32[n].

    Raises:
      ValueError: if levels is not a vector of at least two, strictly decreasing.
    """
    levels = np.asarray(levels)
    if levels.ndim != 1 or len(levels) < 2 or not np.all(np.diff(levels) < 0):
        raise ValueError(
            f"a sampler was given levels of shape {levels.shape} but needs at least two in "
            "strictly decreasing order; use a grid of cdt.sampling.grids"
        )
    levels = levels.astype(np.float32)
    return jnp.arange(len(levels) - 1), jnp.asarray(levels[:-1]), jnp.asarray(levels[1:])
