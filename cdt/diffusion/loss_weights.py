"""Loss weights: what multiplies the squared error of the network's output at each noise level.

Published weights are stated for one prediction (Min-SNR for x0, P2 for eps). All predictions are
linear in each other's errors, so a weight for one is turned into the weight for any: with the
target a x0 + b eps, an output error e means an eps error of alpha e / (alpha b - sigma a).
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from cdt.diffusion.prediction import Prediction
from cdt.diffusion.process import Process

Weight = Callable[[jax.Array], jax.Array]  # native level f32[B] -> f32[B] >= 0


def no_weight() -> Weight:
    """1: the plain mean squared error of the network's output."""
    return jnp.ones_like


def min_snr_weight(process: Process, prediction: Prediction, gamma: float = 5.0) -> Weight:
    """min(SNR, gamma) on the x0 error; 1 where the SNR is 0 (Hang et al. 2023, arXiv 2303.09556).

    For eps that is min(S, gamma) / S, for v min(S, gamma) / (S + 1), for x0 min(S, gamma).

    Raises:
      ValueError: if `gamma` is not positive.
    """
    if not gamma > 0:
        raise ValueError(f"Min-SNR's gamma is {gamma:g}; it must be positive.")
    eps_error = _eps_error_per_output_error(process, prediction)

    def weight(level: jax.Array) -> jax.Array:
        snr = _snr(process, level)
        # min(S, g) / S of the eps error, whose infinite and zero ends are both finite.
        clipped = jnp.minimum(1.0, gamma / jnp.where(snr > 0, snr, 1.0))
        return jnp.where(snr > 0, clipped * eps_error(level), 1.0)

    return weight


def p2_weight(
    process: Process, prediction: Prediction, k: float = 1.0, gamma: float = 1.0
) -> Weight:
    """1 / (k + SNR)^gamma on the eps error (Choi et al. 2022, arXiv 2204.00227, equation 8).

    Raises:
      ValueError: unless k > 0 and gamma >= 0.
    """
    if not (k > 0 and gamma >= 0):
        raise ValueError(f"P2 has k {k:g} and gamma {gamma:g}; k must be positive, gamma >= 0.")
    eps_error = _eps_error_per_output_error(process, prediction)
    return lambda level: eps_error(level) * (k + _snr(process, level)) ** -gamma


def x0_error_weight(process: Process, prediction: Prediction) -> Weight:
    """w in |output error|^2 = w |x0 error|^2: (a - b alpha / sigma)^2. Needs sigma > 0.

    1/s^2 for eps, 1 for x0, (s^2 + sd^2) / (s sd)^2 for EDM, with s = sigma / alpha.
    """

    def weight(level: jax.Array) -> jax.Array:
        alpha, sigma = process.alpha_sigma(level)
        a, b = prediction.coefficients(level)
        return (a - b * alpha / sigma) ** 2

    return weight


def _snr(process: Process, level: jax.Array) -> jax.Array:
    alpha, sigma = process.alpha_sigma(level)
    return (alpha / sigma) ** 2


def _eps_error_per_output_error(process: Process, prediction: Prediction) -> Weight:
    """|eps error|^2 of an output error of 1."""

    def weight(level: jax.Array) -> jax.Array:
        alpha, sigma = process.alpha_sigma(level)
        a, b = prediction.coefficients(level)
        return (alpha / (alpha * b - sigma * a)) ** 2

    return weight
