"""Training losses: one value per example, in float32 for any compute dtype of the network."""

from collections.abc import Callable
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.scipy.special import ndtr

from cdt.diffusion.denoiser import Condition
from cdt.diffusion.loss_weights import Weight
from cdt.diffusion.prediction import Prediction, split_output, target, to_x0_eps
from cdt.diffusion.process import Process, corrupt, per_example
from cdt.diffusion.reverse_step import posterior, reverse_log_variance, reverse_mean
from cdt.diffusion.uncertainty import LogVariance

PyTree = Any
# (params, scaled x, time input, condition, PRNG key or None) -> raw output
Apply = Callable[[PyTree, Array, Array, Condition, Array | None], Array]
# (params, x0, eps, u, condition, PRNG key or None) -> (loss[B], eps_error[B])
ExampleLoss = Callable[[PyTree, Array, Array, Array, Condition, Array | None], tuple[Array, Array]]


class Loss(Protocol):
    """Type of the function that `make_loss` returns."""

    def __call__(
        self,
        output: Array,
        x0: Array,
        eps: Array,
        level: Array,
        log_variance: Array | None = None,
    ) -> tuple[Array, Array]: ...


def make_loss(
    process: Process,
    prediction: Prediction,
    learn_variance: bool = False,
    weight: Weight = jnp.ones_like,
) -> Loss:
    """Return the loss of one family and prediction.

    The loss is the mean squared error of the network's output. With weight 1 it is the loss of the
    paper, where <.> is the mean over dimensions:

        family, prediction            loss                                       source
        ddpm, eps                     <(eps_hat - eps)^2>                        Ho 2020, eq. 14
        ddpm, eps, learned variance   <(eps_hat - eps)^2> + <L_t> / ln 2         Nichol 2021, eq. 16
        edm, edm                      lambda(sigma) <(D - x0)^2>                 Karras 2022, eq. 2
        flow, velocity                <(v_hat - alpha' x0 - sigma' eps)^2>       Ma 2024, sec. 2

    - L_t is the variational term (Ho et al. 2020, equation 5), in bits per dimension. Its factor is
      1: lambda = 0.001 of Nichol & Dhariwal times T = 1000 terms. It trains the variance only; no
      gradient passes through the mean.
    - lambda(sigma) = (sigma^2 + sd^2) / (sigma sd)^2. It needs no multiplication: the network
      predicts F, whose error has the factor lambda c_out^2 = 1 (Karras et al. 2022, equation 8).

    Args:
      process: noise family.
      prediction: what the network predicts.
      learn_variance: True if the network has 2C output channels.
      weight: native level f32[B] -> factor of the squared error f32[B] (`diffusion.loss_weights`).
        It does not apply to the variational term.

    Returns:
      loss(output, x0, eps, level, log_variance=None) -> (loss f32[B], eps_error f32[B]). output is
      the raw network output [B, ..., C or 2C], x0 and eps are [B, ..., C], level is native [B].
      With log_variance a [B] the squared error m becomes m exp(-a) + a (`diffusion.uncertainty`).
      eps_error is |eps_hat - eps|^2 summed over dimensions, without gradient.

    Raises:
      ValueError: a learned variance on a continuous family, which has no previous level.
    """
    if learn_variance and process.num_levels is None:
        raise ValueError(
            f"learn_variance is True for the family '{process.name}'; it needs ddpm: use ddpm, or "
            "set learn_variance to False."
        )

    def loss(
        output: Array, x0: Array, eps: Array, level: Array, log_variance: Array | None = None
    ) -> tuple[Array, Array]:
        x0, eps = x0.astype(jnp.float32), eps.astype(jnp.float32)
        mean, variance = split_output(output, x0.shape[-1], learn_variance)
        error = mean - target(prediction, x0, eps, level)
        value = weight(level) * _mean_over_dimensions(error**2)
        if log_variance is not None:
            value = value * jnp.exp(-log_variance) + log_variance
        error = jax.lax.stop_gradient(error)
        x0_error, eps_error = to_x0_eps(process, prediction, error, jnp.zeros_like(error), level)
        if variance is not None:
            frac = (variance + 1) / 2
            value = value + _variational_bound(process, x0, x0_error, frac, level)
        return value, jnp.sum(eps_error**2, axis=tuple(range(1, eps_error.ndim)))

    return loss


def _variational_bound(
    process: Process, x0: Array, x0_error: Array, frac: Array, level: Array
) -> Array:
    """Return L_t of Ho et al. 2020, equation 5 (KL for t > 0, NLL for t = 0), in bits/dim, [B]."""
    # At t = 0 the variance of the posterior is 0; use that of t = 1 (Nichol & Dhariwal 2021).
    inner = jnp.maximum(level, 1)
    floor = posterior(process, inner, inner - 1).variance
    q = posterior(process, level, level - 1)._replace(variance=floor)
    true_log_var = per_example(jnp.log(floor), x0)
    log_var = reverse_log_variance(q, frac)
    # Both means have the same x, which cancels in their difference.
    mean_error = reverse_mean(q, jnp.zeros_like(x0), x0_error)
    ratio = jnp.exp(true_log_var - log_var)
    kl = 0.5 * (log_var - true_log_var - 1 + ratio + mean_error**2 * jnp.exp(-log_var))

    # At t = 0 the mean of the reverse step is the predicted x0 itself.
    nll = discretized_gaussian_nll(x0, x0 + x0_error, 0.5 * log_var)
    nats = jnp.where(per_example(level, x0) == 0, nll, kl)
    return _mean_over_dimensions(nats) / np.log(2)


def discretized_gaussian_nll(x: Array, mean: Array, log_scale: Array) -> Array:
    """Return the negative log probability of x's bin, of width 2/255, under a Gaussian.

    The outermost bins (|x| > 0.999) extend to infinity. Probabilities are at least 1e-12.

    Args:
      x: data in [-1, 1] with 256 values, any shape; also used for latents, as in DiT.
      mean: mean of the Gaussian, of x's shape.
      log_scale: natural logarithm of its standard deviation, of x's shape.

    Returns:
      nats, of x's shape.

    Source: Ho et al. 2020, equation 13.
    """
    inverse_scale = jnp.exp(-log_scale)
    upper = jnp.where(x > 0.999, jnp.inf, (x - mean + 1 / 255) * inverse_scale)
    lower = jnp.where(x < -0.999, -jnp.inf, (x - mean - 1 / 255) * inverse_scale)
    # P(lower < z < upper) = P(-upper < z < -lower); float32 is precise in the left tail only.
    flip = x > mean
    upper, lower = jnp.where(flip, -lower, upper), jnp.where(flip, -upper, lower)
    return -jnp.log(jnp.maximum(ndtr(upper) - ndtr(lower), 1e-12))


def _mean_over_dimensions(values: Array) -> Array:
    return jnp.mean(values, axis=tuple(range(1, values.ndim)))


def make_example_loss(
    apply: Apply,
    process: Process,
    prediction: Prediction,
    loss: Loss,
    log_variance: LogVariance | None = None,
) -> ExampleLoss:
    """Return the loss of examples at noise levels u.

    Training, validation and the difficulty study use this function.

    Args:
      apply: (params, scaled x [B, ..., C], time input [B], condition, PRNG key or None) -> raw
        output [B, ..., C or 2C]. The condition is a dict of arrays [B, ...], such as label
        int32[B].
      process: noise family.
      prediction: what the network predicts.
      loss: the function returned by `make_loss`.
      log_variance: (params, native level [B]) -> learned log variance [B]
        (`diffusion.uncertainty`), or None.

    Returns:
      example_loss(params, x0, eps, u, condition, key) -> (loss f32[B], eps_error f32[B]); x0 and
      eps are [B, ..., C], u is f32[B] in [0, 1).
    """

    def example_loss(
        params: PyTree, x0: Array, eps: Array, u: Array, condition: Condition, key: Array | None
    ) -> tuple[Array, Array]:
        level = process.level(u)
        x = corrupt(process, x0, eps, level)
        x = per_example(prediction.c_in(level), x) * x
        output = apply(params, x, process.time_input(level), condition, key)
        a = None if log_variance is None else log_variance(params, level)
        return loss(output, x0, eps, level, a)

    return example_loss
