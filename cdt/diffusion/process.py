"""The three noise families: x = alpha x0 + sigma eps on one coordinate u.

u in [0, 1) is the quantile of a family's own training noise distribution, 0 clean: u uniform
reproduces ordinary training in every family. Samplers step in the family's *native level*.
"""

from collections.abc import Callable
from statistics import NormalDist
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import ndtr, ndtri

from cdt.diffusion.schedules import Path

# The float32 just below 1 is 1 - 2**-24; u is kept this far off both ends so that the normal
# quantile stays finite (|z| <= 5.3).
_U_MARGIN = 2.0**-24

Elementwise = Callable[[jax.Array], jax.Array]
Pairwise = Callable[[jax.Array], tuple[jax.Array, jax.Array]]


class Process(NamedTuple):
    """A Gaussian corruption process. Every function works element by element, on any shape."""

    name: str  # "ddpm", "edm" or "flow"
    num_levels: int | None  # T of a discrete family, None of a continuous one
    level: Elementwise  # u f32 in [0, 1) -> native level f32
    u: Elementwise  # native level, clean end excluded -> u f32 in [0, 1]
    alpha_sigma: Pairwise  # native level, clean end included -> (alpha, sigma) f32
    derivatives: Pairwise | None  # native level -> (dalpha/dlevel, dsigma/dlevel); None if discrete
    time_input: Elementwise  # native level -> the network's time input
    position: Elementwise  # time input -> f32 in [0, 1], 0 clean: t/(T - 1) if discrete, or u
    log_snr: Callable[[np.ndarray], np.ndarray]  # u f64, on the host -> log(alpha^2 / sigma^2) f64


def ddpm(betas: np.ndarray) -> Process:
    """Discrete variance-preserving diffusion (Ho et al. 2020, equation 4).

    The native level is the timestep t = 0..T-1 as float32; -1 is the clean end. u covers
    [t/T, (t+1)/T) and u(t) is the middle (t + 1/2)/T, which comes back exactly.

    Args:
      betas: float64[T] in (0, 1), from `schedules.linear_betas` or `schedules.cosine_betas`.
    Raises:
      ValueError: if betas is not one-dimensional or leaves (0, 1).
    """
    betas = np.asarray(betas, np.float64)
    if betas.ndim != 1 or not np.all((betas > 0) & (betas < 1)):
        raise ValueError(
            f"ddpm was given betas {betas} but needs a vector of numbers strictly between 0 and 1; "
            "use one from schedules"
        )
    num_levels = len(betas)
    # log alpha_bar as a sum of log1p keeps 1 - alpha_bar exact where beta is small.
    log_alpha_bar = np.concatenate([[0.0], np.cumsum(np.log1p(-betas))])  # entry 0 is level -1
    alphas = np.exp(0.5 * log_alpha_bar).astype(np.float32)
    sigmas = np.sqrt(np.abs(np.expm1(log_alpha_bar))).astype(np.float32)
    log_snrs = log_alpha_bar[1:] - np.log(-np.expm1(log_alpha_bar[1:]))

    def alpha_sigma(level: jax.Array) -> tuple[jax.Array, jax.Array]:
        index = jnp.asarray(level).astype(jnp.int32) + 1
        return jnp.asarray(alphas)[index], jnp.asarray(sigmas)[index]

    def log_snr(u: np.ndarray) -> np.ndarray:
        index = np.minimum(np.floor(np.asarray(u) * num_levels), num_levels - 1)
        return log_snrs[index.astype(np.int64)]

    return Process(
        name="ddpm",
        num_levels=num_levels,
        level=lambda u: jnp.minimum(jnp.floor(u * num_levels), num_levels - 1),
        u=lambda level: (level + 0.5) / num_levels,
        alpha_sigma=alpha_sigma,
        derivatives=None,
        time_input=lambda level: level,
        position=lambda time: time / max(num_levels - 1, 1),
        log_snr=log_snr,
    )


def edm(p_mean: float = -1.2, p_std: float = 1.2) -> Process:
    """Variance-exploding diffusion with log-normal training levels (Karras et al. 2022, table 1).

    The native level is sigma > 0, with ln sigma ~ N(p_mean, p_std^2) in training; 0 is the clean
    end. u is the quantile of that log-normal; the float32 quantile is coarse in its far tails, so
    samplers step in sigma and never through u.

    Raises:
      ValueError: if p_std is not positive.
    """
    if not p_std > 0:
        raise ValueError(f"edm was given p_std = {p_std} but needs a positive one; EDM uses 1.2")
    quantile = np.vectorize(NormalDist().inv_cdf, otypes=[np.float64])

    inside = (_U_MARGIN, 1 - _U_MARGIN)

    def u_of(log_sigma: jax.Array) -> jax.Array:
        return jnp.clip(ndtr((log_sigma - p_mean) / p_std), *inside)

    return Process(
        name="edm",
        num_levels=None,
        level=lambda u: jnp.exp(p_mean + p_std * ndtri(jnp.clip(u, *inside))),
        u=lambda level: u_of(jnp.log(level)),
        alpha_sigma=lambda level: (jnp.ones_like(level), level),
        derivatives=lambda level: (jnp.zeros_like(level), jnp.ones_like(level)),
        time_input=lambda level: jnp.log(level) / 4,  # c_noise
        position=lambda time: u_of(4 * time),
        log_snr=lambda u: -2 * (p_mean + p_std * quantile(np.clip(u, *inside))),
    )


def flow(path: Path) -> Process:
    """Flow matching (Lipman et al. 2023; Ma et al. 2024, SiT), with t = 0 clean and t = 1 noise.

    The native level is t = u itself, and so is the network's time input (not times 1000). SiT's
    own code and weights run t the other way.

    Args:
      path: `schedules.linear_path()` or `schedules.gvp_path()`.
    """

    def log_snr(u: np.ndarray) -> np.ndarray:
        with np.errstate(divide="ignore"):  # +inf at u = 0 and -inf at u = 1 are meant
            return path.log_snr(np.asarray(u, np.float64))

    return Process(
        name="flow",
        num_levels=None,
        level=lambda u: u,
        u=lambda level: level,
        alpha_sigma=path.alpha_sigma,
        derivatives=path.derivatives,
        time_input=lambda level: level,
        position=lambda time: time,
        log_snr=log_snr,
    )


def noise_variances(process: Process) -> np.ndarray:
    """sigma^2 = 1 - abar of the timesteps t = 0..T-1 of `ddpm`: f64[T], on the host.

    Raises:
      ValueError: for a continuous family, which has no timesteps.
    """
    if process.num_levels is None:
        raise ValueError(
            f"the timesteps of the continuous family {process.name!r} were asked for but only a "
            "discrete one has them; use ddpm"
        )
    middles = (np.arange(process.num_levels) + 0.5) / process.num_levels
    return 1 / (1 + np.exp(process.log_snr(middles)))


def per_example(values: jax.Array, x: jax.Array) -> jax.Array:
    """Reshape values [B] to [B, 1, ..., 1] so that they scale the examples of x [B, ...]."""
    return jnp.reshape(values, jnp.shape(values) + (1,) * (x.ndim - jnp.ndim(values)))


def corrupt(process: Process, x0: jax.Array, eps: jax.Array, level: jax.Array) -> jax.Array:
    """x = alpha x0 + sigma eps.

    Args:
      x0: clean data [B, ...].
      eps: standard normal noise of x0's shape.
      level: native levels [B].
    """
    alpha, sigma = process.alpha_sigma(level)
    return per_example(alpha, x0) * x0 + per_example(sigma, x0) * eps
