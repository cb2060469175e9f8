"""Noise schedules: the betas of DDPM (float64, on the host) and the paths of flow matching."""

from collections.abc import Callable
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import Array


def linear_betas(num_levels: int) -> np.ndarray:
    """Return linear betas, from 1e-4 to 0.02 at T = 1000.

    Both ends are multiplied by 1000/T, as in the code of Nichol & Dhariwal 2021.

    Args:
      num_levels: T >= 21; with fewer timesteps the last beta would reach 1.

    Returns:
      f64[T], increasing, in (0, 1).

    Raises:
      ValueError: T < 21.

    Source: Ho et al. 2020, arXiv 2006.11239, section 4.
    """
    if num_levels < 21:
        raise ValueError(
            f"The linear schedule has {num_levels} timesteps; it needs at least 21, so that its "
            "last beta (20 / timesteps) is below 1. Use more timesteps, or the cosine schedule."
        )
    scale = 1000 / num_levels
    return np.linspace(1e-4 * scale, 0.02 * scale, num_levels, dtype=np.float64)


def cosine_betas(num_levels: int) -> np.ndarray:
    """Return cosine betas, clipped to at most 0.999.

    Args:
      num_levels: T >= 2.

    Returns:
      f64[T], in (0, 0.999].

    Raises:
      ValueError: T < 2.

    Source: Nichol & Dhariwal 2021, arXiv 2102.09672, equation 17.
    """
    if num_levels < 2:
        raise ValueError(f"The cosine schedule has {num_levels} timesteps; it needs at least 2.")
    t = np.arange(num_levels + 1, dtype=np.float64) / num_levels
    alpha_bar = np.cos((t + 0.008) / 1.008 * np.pi / 2) ** 2
    return np.minimum(1 - alpha_bar[1:] / alpha_bar[:-1], 0.999)


class Path(NamedTuple):
    """A flow-matching path x_t = alpha(t) x0 + sigma(t) eps for t in [0, 1]; t = 0 is clean.

    Attributes:
      alpha_sigma: t -> (alpha, sigma).
      derivatives: t -> (alpha', sigma').
      log_snr: t f64 -> log(alpha^2 / sigma^2) f64, in NumPy on the host.
    """

    alpha_sigma: Callable[[Array], tuple[Array, Array]]
    derivatives: Callable[[Array], tuple[Array, Array]]
    log_snr: Callable[[np.ndarray], np.ndarray]


def linear_path() -> Path:
    """Return the linear path alpha = 1 - t, sigma = t (Ma et al. 2024, section 2)."""
    return Path(
        alpha_sigma=lambda t: (1 - t, t),
        derivatives=lambda t: (-jnp.ones_like(t), jnp.ones_like(t)),
        log_snr=lambda t: 2 * (np.log1p(-t) - np.log(t)),
    )


def gvp_path() -> Path:
    """Return the generalised variance-preserving path alpha = cos(pi t/2), sigma = sin(pi t/2).

    Source: Ma et al. 2024, arXiv 2401.08740, section 2.
    """
    half_pi = np.pi / 2

    def alpha_sigma(t: Array) -> tuple[Array, Array]:
        # cos(pi t/2) = sin(pi (1-t)/2), which is exactly 0 at t = 1; float32 cos gives -4e-8.
        return jnp.sin(half_pi * (1 - t)), jnp.sin(half_pi * t)

    def derivatives(t: Array) -> tuple[Array, Array]:
        alpha, sigma = alpha_sigma(t)
        return -half_pi * sigma, half_pi * alpha

    def log_snr(t: np.ndarray) -> np.ndarray:
        return 2 * (np.log(np.sin(half_pi * (1 - t))) - np.log(np.sin(half_pi * t)))

    return Path(alpha_sigma, derivatives, log_snr)
