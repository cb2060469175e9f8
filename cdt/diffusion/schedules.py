"""Noise schedules: the betas of DDPM and the paths of flow matching, in float64 on the host."""

from collections.abc import Callable
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import Array


def linear_betas(num_levels: int) -> np.ndarray:
    """Linear betas (Ho et al. 2020, section 4; ends scaled by 1000/T as in Nichol & Dhariwal 2021).

    Args:
      num_levels: T, at least 21: below, the last beta would reach 1.
    Returns:
      float64[T], increasing, in (0, 1).
    Raises:
      ValueError: for T < 21.
    """
    if num_levels < 21:
        raise ValueError(
            f"the linear schedule was given {num_levels} levels but needs at least 21, because its "
            "last beta is 20 / levels and must stay below 1; use more levels or the cosine schedule"
        )
    scale = 1000 / num_levels
    return np.linspace(1e-4 * scale, 0.02 * scale, num_levels, dtype=np.float64)


def cosine_betas(num_levels: int) -> np.ndarray:
    """Cosine betas, at most 0.999 (Nichol & Dhariwal 2021, equation 17).

    Args:
      num_levels: T, at least 2.
    Returns:
      float64[T], in (0, 0.999].
    Raises:
      ValueError: for T < 2.
    """
    if num_levels < 2:
        raise ValueError(
            f"the cosine schedule was given {num_levels} levels but needs at least 2; use more"
        )
    t = np.arange(num_levels + 1, dtype=np.float64) / num_levels
    alpha_bar = np.cos((t + 0.008) / 1.008 * np.pi / 2) ** 2
    return np.minimum(1 - alpha_bar[1:] / alpha_bar[:-1], 0.999)


class Path(NamedTuple):
    """A flow-matching path x_t = alpha(t) x0 + sigma(t) eps, t in [0, 1], t = 0 clean."""

    alpha_sigma: Callable[[Array], tuple[Array, Array]]  # t -> (alpha, sigma)
    derivatives: Callable[[Array], tuple[Array, Array]]  # t -> (alpha', sigma')
    log_snr: Callable[[np.ndarray], np.ndarray]  # t f64 -> log(alpha^2 / sigma^2) f64, on the host


def linear_path() -> Path:
    """alpha = 1 - t, sigma = t (Ma et al. 2024, section 2; there t = 1 is the clean end)."""
    return Path(
        alpha_sigma=lambda t: (1 - t, t),
        derivatives=lambda t: (-jnp.ones_like(t), jnp.ones_like(t)),
        log_snr=lambda t: 2 * (np.log1p(-t) - np.log(t)),
    )


def gvp_path() -> Path:
    """Variance preserving: alpha = cos(pi t/2), sigma = sin(pi t/2) (Ma et al. 2024, section 2)."""
    half_pi = np.pi / 2

    def alpha_sigma(t: Array) -> tuple[Array, Array]:
        # cos(pi t/2) as sin(pi (1-t)/2): exactly 0 at t = 1, where float32 cos leaves -4e-8.
        return jnp.sin(half_pi * (1 - t)), jnp.sin(half_pi * t)

    def derivatives(t: Array) -> tuple[Array, Array]:
        alpha, sigma = alpha_sigma(t)
        return -half_pi * sigma, half_pi * alpha

    def log_snr(t: np.ndarray) -> np.ndarray:
        return 2 * (np.log(np.sin(half_pi * (1 - t))) - np.log(np.sin(half_pi * t)))

    return Path(alpha_sigma, derivatives, log_snr)
