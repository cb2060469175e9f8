"""What a network predicts: always a(level) x0 + b(level) eps, so one 2x2 solve converts."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from cdt.diffusion.process import Elementwise, Pairwise, Process, per_example


class Prediction(NamedTuple):
    """A parameterisation. Both functions work element by element on native levels [B]."""

    coefficients: Pairwise  # level -> (a, b): the network's target is a x0 + b eps
    c_in: Elementwise  # level -> scale of the network's input (1 but for EDM)


def eps_prediction() -> Prediction:
    """The noise (Ho et al. 2020, equation 14). Needs alpha > 0."""
    return Prediction(lambda level: (jnp.zeros_like(level), jnp.ones_like(level)), jnp.ones_like)


def x0_prediction() -> Prediction:
    """The clean data. Needs sigma > 0."""
    return Prediction(lambda level: (jnp.ones_like(level), jnp.zeros_like(level)), jnp.ones_like)


def v_prediction(process: Process) -> Prediction:
    """v = alpha eps - sigma x0 (Salimans & Ho 2022, section 4)."""

    def coefficients(level: jax.Array) -> tuple[jax.Array, jax.Array]:
        alpha, sigma = process.alpha_sigma(level)
        return -sigma, alpha

    return Prediction(coefficients, jnp.ones_like)


def velocity_prediction(process: Process) -> Prediction:
    """dx/dt = alpha' x0 + sigma' eps along the path (Ma et al. 2024, equation 6).

    Raises:
      ValueError: for a discrete family, which has no derivative in its level.
    """
    if process.derivatives is None:
        raise ValueError(
            f"velocity prediction was asked of the discrete family {process.name!r} but needs a "
            "continuous one; use flow, or predict eps, x0 or v"
        )
    return Prediction(process.derivatives, jnp.ones_like)


def edm_prediction(sigma_data: float = 0.5) -> Prediction:
    """F of EDM's preconditioning D = c_skip x + c_out F(c_in x) (Karras et al. 2022, table 1).

    F's target is (x0 - c_skip x) / c_out; with x = x0 + sigma eps put in, it is
    sigma / (sigma_data r) x0 - sigma_data / r eps, where r = sqrt(sigma^2 + sigma_data^2).

    Args:
      sigma_data: standard deviation of the data, positive.
    Raises:
      ValueError: if sigma_data is not positive.
    """
    if not sigma_data > 0:
        raise ValueError(
            f"EDM was given sigma_data = {sigma_data} but needs a positive one; it is the standard "
            "deviation of the data, 0.5 in the paper"
        )

    def root(sigma: jax.Array) -> jax.Array:
        return jnp.sqrt(sigma**2 + sigma_data**2)

    def coefficients(sigma: jax.Array) -> tuple[jax.Array, jax.Array]:
        return sigma / (sigma_data * root(sigma)), -sigma_data / root(sigma)

    return Prediction(coefficients, lambda sigma: 1 / root(sigma))


def target(prediction: Prediction, x0: jax.Array, eps: jax.Array, level: jax.Array) -> jax.Array:
    """What the network should output: a x0 + b eps, of x0's shape [B, ...], for levels [B]."""
    a, b = prediction.coefficients(level)
    return per_example(a, x0) * x0 + per_example(b, x0) * eps


def to_x0_eps(
    process: Process, prediction: Prediction, output: jax.Array, x: jax.Array, level: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """The (x0, eps) that solve alpha x0 + sigma eps = x and a x0 + b eps = output.

    Linear in (output, x) together, so errors of the output map to errors of x0 and eps with x = 0.

    Args:
      output: the network's mean channels [B, ...].
      x: corrupted data of output's shape.
      level: native levels [B], away from where the prediction is singular (see each one).
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
      channels: C of the data.
    Returns:
      mean [B, ..., C] and the raw variance value [B, ..., C] in about [-1, 1], or None.
    Raises:
      ValueError: if the number of channels does not fit.
    """
    expected = 2 * channels if learn_variance else channels
    if output.shape[-1] != expected:
        raise ValueError(
            f"the network returned {output.shape[-1]} channels but {expected} are expected for "
            f"data of {channels} channels and learn_variance = {learn_variance}; change its width"
        )
    output = output.astype(jnp.float32)
    if not learn_variance:
        return output, None
    return output[..., :channels], output[..., channels:]
