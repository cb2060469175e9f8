"""The noise families DDPM, EDM and flow matching: x = alpha x0 + sigma eps.

All families have the noise level u in [0, 1): the quantile of the family's own distribution of
training noise levels; u = 0 is clean. Uniform u is ordinary training in every family. Samplers step
in the *native level* of the family: timestep t, sigma, or flow time t.
"""

from collections.abc import Callable
from statistics import NormalDist
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import ndtr, ndtri

from cdt.diffusion.schedules import Path

# Clip u to this distance from 0 and 1, where the normal quantile is infinite; |z| is then at most
# 5.3. The largest float32 below 1 is 1 - 2**-24.
_U_MARGIN = 2.0**-24

Elementwise = Callable[[jax.Array], jax.Array]
Pairwise = Callable[[jax.Array], tuple[jax.Array, jax.Array]]


class Process(NamedTuple):
    """A noise family. Every function is elementwise, for arrays of any shape.

    Attributes:
      name: "ddpm", "edm" or "flow".
      num_levels: T, timesteps of a discrete family; None for a continuous family.
      level: u f32 in [0, 1) -> native level f32.
      u: native level f32, except the clean end -> u f32 in [0, 1].
      alpha_sigma: native level, also the clean end -> (alpha, sigma) f32.
      derivatives: native level -> (dalpha/dlevel, dsigma/dlevel); None for a discrete family.
      time_input: native level -> time input of the network.
      position: time input -> f32 in [0, 1], 0 clean: t / (T - 1) of a discrete family, u of a
        continuous family.
      log_snr: u f64 -> log(alpha^2 / sigma^2) f64, in NumPy on the host.
    """

    name: str
    num_levels: int | None
    level: Elementwise
    u: Elementwise
    alpha_sigma: Pairwise
    derivatives: Pairwise | None
    time_input: Elementwise
    position: Elementwise
    log_snr: Callable[[np.ndarray], np.ndarray]


def ddpm(betas: np.ndarray) -> Process:
    """Return the family of discrete variance-preserving diffusion.

    The native level is the timestep t = 0..T-1 as float32; -1 is the clean end. Timestep t is the
    interval [t/T, (t+1)/T) of u. u(t) is its middle (t + 1/2)/T, and level(u(t)) = t exactly.

    Args:
      betas: f64[T] in (0, 1), from `schedules.linear_betas` or `schedules.cosine_betas`.

    Raises:
      ValueError: betas is not one-dimensional, or has a value outside (0, 1).

    Source: Ho et al. 2020, arXiv 2006.11239, equation 4.
    """
    betas = np.asarray(betas, np.float64)
    if betas.ndim != 1 or not np.all((betas > 0) & (betas < 1)):
        raise ValueError(
            f"The betas of ddpm are {betas}; they must be a vector of numbers strictly between 0 "
            "and 1. Use linear_betas or cosine_betas."
        )
    num_levels = len(betas)
    # A sum of log1p, so that 1 - alpha_bar is precise where beta is small.
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
    """Return EDM's family: variance-exploding diffusion with log-normal training levels.

    The native level is sigma > 0; 0 is the clean end. u is the quantile of sigma with
    ln sigma ~ N(p_mean, p_std^2). In float32 this quantile is imprecise in the far tails, so
    samplers step in sigma and do not convert to u.

    Args:
      p_mean: mean of ln sigma.
      p_std: standard deviation of ln sigma, > 0.

    Raises:
      ValueError: p_std <= 0.

    Source: Karras et al. 2022, arXiv 2206.00364, table 1.
    """
    if not p_std > 0:
        raise ValueError(f"EDM's p_std is {p_std}; it must be positive. The paper has 1.2.")
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
    """Return the family of flow matching, with t = 0 clean and t = 1 pure noise.

    The native level is t = u. It is also the time input of the network, without a factor of 1000.
    In SiT's code and published weights t runs in the other direction.

    Args:
      path: `schedules.linear_path()` or `schedules.gvp_path()`.

    Source: Lipman et al. 2023, arXiv 2210.02747; Ma et al. 2024 (SiT), arXiv 2401.08740.
    """

    def log_snr(u: np.ndarray) -> np.ndarray:
        with np.errstate(divide="ignore"):  # the result is inf at u = 0 and -inf at u = 1
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
    """Return sigma^2 = 1 - alpha_bar of the timesteps t = 0..T-1 of `ddpm`: f64[T], on the host.

    Args:
      process: a discrete noise family.

    Raises:
      ValueError: a continuous family, which has no timesteps.
    """
    if process.num_levels is None:
        raise ValueError(
            f"The family '{process.name}' is continuous and has no timesteps; use ddpm."
        )
    middles = (np.arange(process.num_levels) + 0.5) / process.num_levels
    return 1 / (1 + np.exp(process.log_snr(middles)))


def per_example(values: jax.Array, x: jax.Array) -> jax.Array:
    """Reshape values [B] to [B, 1, ..., 1], to broadcast with the examples x [B, ...]."""
    return jnp.reshape(values, jnp.shape(values) + (1,) * (x.ndim - jnp.ndim(values)))


def corrupt(process: Process, x0: jax.Array, eps: jax.Array, level: jax.Array) -> jax.Array:
    """Return the noisy data x = alpha x0 + sigma eps, of x0's shape.

    Args:
      process: noise family.
      x0: clean data [B, ...].
      eps: standard normal noise, of x0's shape.
      level: native levels [B].
    """
    alpha, sigma = process.alpha_sigma(level)
    return per_example(alpha, x0) * x0 + per_example(sigma, x0) * eps
