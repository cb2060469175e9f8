"""Predictions: the targets of a network, and their conversion to x0 and eps.

Every target is a(level) x0 + b(level) eps, so solving a 2x2 system converts any of them.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from cdt.diffusion.process import Elementwise, Pairwise, Process, per_example


class Prediction(NamedTuple):
    """What a network predicts. Both functions are elementwise in the native levels [B].

    Attributes:
      coefficients: level -> (a, b); the network's target is a x0 + b eps.
      c_in: level -> scale of the network's input; 1 except for EDM.
    """

    coefficients: Pairwise
    c_in: Elementwise


def eps_prediction() -> Prediction:
    """Return the prediction of the noise eps (Ho et al. 2020, equation 14); needs alpha > 0."""
    return Prediction(lambda level: (jnp.zeros_like(level), jnp.ones_like(level)), jnp.ones_like)


def x0_prediction() -> Prediction:
    """Return the prediction of the clean data x0; needs sigma > 0."""
    return Prediction(lambda level: (jnp.ones_like(level), jnp.zeros_like(level)), jnp.ones_like)


def v_prediction(process: Process) -> Prediction:
    """Return the prediction of v = alpha eps - sigma x0 (Salimans & Ho 2022, section 4)."""

    def coefficients(level: jax.Array) -> tuple[jax.Array, jax.Array]:
        alpha, sigma = process.alpha_sigma(level)
        return -sigma, alpha

    return Prediction(coefficients, jnp.ones_like)


def velocity_prediction(process: Process) -> Prediction:
    """Return the prediction of the velocity dx/dt = alpha' x0 + sigma' eps along the path.

    Args:
      process: a continuous noise family.

    Raises:
      ValueError: a discrete family, whose alpha and sigma have no derivatives.

    Source: Ma et al. 2024, arXiv 2401.08740, section 2.
    """
    if process.derivatives is None:
        raise ValueError(
            f"The prediction is 'velocity' for the family '{process.name}', which is discrete; use "
            "flow, or predict eps, x0 or v."
        )
    return Prediction(process.derivatives, jnp.ones_like)


def edm_prediction(sigma_data: float = 0.5) -> Prediction:
    """Return the prediction of F in EDM's preconditioning D = c_skip x + c_out F(c_in x).

    The target of F is (x0 - c_skip x) / c_out. With x = x0 + sigma eps this is
    sigma / (sigma_data r) x0 - sigma_data / r eps, where r = sqrt(sigma^2 + sigma_data^2).

    Args:
      sigma_data: standard deviation of the data, > 0.

    Raises:
      ValueError: sigma_data <= 0.

    Source: Karras et al. 2022, arXiv 2206.00364, table 1.
    """
    if not sigma_data > 0:
        raise ValueError(
            f"EDM's sigma_data is {sigma_data}; it must be positive. It is the standard deviation "
            "of the data, 0.5 in the paper."
        )

    def root(sigma: jax.Array) -> jax.Array:
        return jnp.sqrt(sigma**2 + sigma_data**2)

    def coefficients(sigma: jax.Array) -> tuple[jax.Array, jax.Array]:
        return sigma / (sigma_data * root(sigma)), -sigma_data / root(sigma)

    return Prediction(coefficients, lambda sigma: 1 / root(sigma))


def target(prediction: Prediction, x0: jax.Array, eps: jax.Array, level: jax.Array) -> jax.Array:
    """Return the network's target a x0 + b eps, of x0's shape [B, ...], at levels [B]."""
    a, b = prediction.coefficients(level)
    return per_example(a, x0) * x0 + per_example(b, x0) * eps


def to_x0_eps(
    process: Process, prediction: Prediction, output: jax.Array, x: jax.Array, level: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Solve alpha x0 + sigma eps = x and a x0 + b eps = output for (x0, eps).

    The solution is linear in (output, x): with x = 0, an error of the output gives the errors of x0
    and eps.

    Args:
      process: noise family.
      prediction: what the network predicts.
      output: mean channels of the network's output, [B, ...].
      x: noisy data, of output's shape.
      level: native levels [B]; eps needs alpha > 0 there, x0 needs sigma > 0.

    Returns:
      x0 and eps, of x's shape.
    """
    alpha, sigma = (per_example(c, x) for c in process.alpha_sigma(level))
    a, b = (per_example(c, x) for c in prediction.coefficients(level))
    determinant = alpha * b - sigma * a
    return (b * x - sigma * output) / determinant, (alpha * output - a * x) / determinant


def split_output(
    output: jax.Array, channels: int, learn_variance: bool
) -> tuple[jax.Array, jax.Array | None]:
    """Split a raw network output into float32 mean channels and variance channels.

    Args:
      output: [B, ..., C], or [B, ..., 2C] with a learned variance (Nichol & Dhariwal 2021).
      channels: C, channels of the data.
      learn_variance: True if the network learns a variance.

    Returns:
      mean [B, ..., C], and the raw variance values [B, ..., C], about in [-1, 1], or None.

    Raises:
      ValueError: a wrong number of output channels.
    """
    expected = 2 * channels if learn_variance else channels
    if output.shape[-1] != expected:
        raise ValueError(
            f"The network returns {output.shape[-1]} channels; it must return {expected} for data "
            f"of {channels} channels with learn_variance {learn_variance}."
        )
    output = output.astype(jnp.float32)
    if not learn_variance:
        return output, None
    return output[..., :channels], output[..., channels:]
