"""Loss weights: factors of the squared error of the network's output at each noise level.

A paper gives its weight for one prediction (Min-SNR for x0, P2 for eps). The errors of all
predictions are proportional to each other, so the weight is converted to any other prediction: if
the target is a x0 + b eps, an output error e is an eps error alpha e / (alpha b - sigma a).
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from cdt.diffusion.prediction import Prediction
from cdt.diffusion.process import Process

Weight = Callable[[jax.Array], jax.Array]  # native level f32[B] -> f32[B] >= 0


def no_weight() -> Weight:
    """Return the weight 1: the mean squared error of the network's output."""
    return jnp.ones_like


def min_snr_weight(process: Process, prediction: Prediction, gamma: float = 5.0) -> Weight:
    """Return the Min-SNR weight: min(SNR, gamma) on the x0 error, and 1 where the SNR is 0.

    With S = SNR the factor is min(S, gamma) / S for eps, min(S, gamma) / (S + 1) for v, and
    min(S, gamma) for x0.

    Args:
      process: noise family.
      prediction: what the network predicts.
      gamma: upper bound of the weight on the x0 error, > 0.

    Raises:
      ValueError: gamma <= 0.

    Source: Hang et al. 2023, arXiv 2303.09556.
    """
    if not gamma > 0:
        raise ValueError(f"Min-SNR's gamma is {gamma:g}; it must be positive.")
    eps_error = _eps_error_per_output_error(process, prediction)

    def weight(level: jax.Array) -> jax.Array:
        snr = _snr(process, level)
        # In terms of the eps error, min(S, gamma) / S: finite at both SNR = inf and SNR = 0.
        clipped = jnp.minimum(1.0, gamma / jnp.where(snr > 0, snr, 1.0))
        return jnp.where(snr > 0, clipped * eps_error(level), 1.0)

    return weight


def p2_weight(
    process: Process, prediction: Prediction, k: float = 1.0, gamma: float = 1.0
) -> Weight:
    """Return the P2 weight: 1 / (k + SNR)^gamma on the eps error.

    Args:
      process: noise family.
      prediction: what the network predicts.
      k: a positive number; 1 in the paper.
      gamma: exponent, >= 0; 0 means no weight.

    Raises:
      ValueError: k <= 0 or gamma < 0.

    Source: Choi et al. 2022, arXiv 2204.00227, equation 8.
    """
    if not (k > 0 and gamma >= 0):
        raise ValueError(
            f"P2 has k {k:g} and gamma {gamma:g}; k must be positive and gamma at least 0."
        )
    eps_error = _eps_error_per_output_error(process, prediction)
    return lambda level: eps_error(level) * (k + _snr(process, level)) ** -gamma


def x0_error_weight(process: Process, prediction: Prediction) -> Weight:
    """Return w(level) with |output error|^2 = w |x0 error|^2, for levels with sigma > 0.

    w = (a - b alpha / sigma)^2. With s = sigma / alpha it is 1/s^2 for eps, 1 for x0, and
    (s^2 + sd^2) / (s sd)^2 for EDM.
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
    """Return level -> |eps error|^2 for an output error of 1."""

    def weight(level: jax.Array) -> jax.Array:
        alpha, sigma = process.alpha_sigma(level)
        a, b = prediction.coefficients(level)
        return (alpha / (alpha * b - sigma * a)) ** 2

    return weight
