"""Training losses, one value an example, in float32 whatever the network computes in."""

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
    """What `make_loss` returns."""

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
    """Build the loss of one family and parameterisation.

    The loss is the mean squared error of the network's own output. With weight 1 the loss of an
    example is that of each paper, where <.> is the mean over dimensions:

        family, prediction            loss                                       source
        ddpm, eps                     <(eps_hat - eps)^2>                        Ho 2020, eq. 14
        ddpm, eps, learned variance   <(eps_hat - eps)^2> + <L_t> / ln 2         Nichol 2021, eq. 16
        edm, edm                      lambda(sigma) <(D - x0)^2>                 Karras 2022, eq. 2
        flow, velocity                <(v_hat - alpha' x0 - sigma' eps)^2>       Ma 2024, sec. 2

    - L_t is the variational term (Ho et al. 2020, equation 5), here in bits per dimension and
      without a factor: Nichol & Dhariwal's lambda = 0.001 times T = 1000 terms. It trains the
      variance alone, its mean being held constant.
    - lambda(sigma) = (sigma^2 + sd^2) / (sigma sd)^2 is nowhere multiplied: lambda c_out^2 = 1 is
      what stands before the error of F (Karras et al. 2022, equation 8).

    Args:
      weight: native level [B] -> factor of the squared error (`diffusion.loss_weights`); does not
        touch the variational term.

    Returns:
      loss(output, x0, eps, level, log_variance=None) -> (loss[B], eps_error[B]): output is the raw
      network output [B, ..., C or 2C], x0 and eps are [B, ..., C], level is native [B]; with a
      learned log_variance a [B] the squared error m becomes m exp(-a) + a. eps_error is
      |eps_hat - eps|^2 summed over dimensions, with the gradient stopped.
    Raises:
      ValueError: for a learned variance on a continuous family, which has no previous level.
    """
    if learn_variance and process.num_levels is None:
        raise ValueError(
            f"a learned variance was asked of the continuous family {process.name!r} but needs a "
            "discrete one; use ddpm or switch learn_variance off"
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
    """L_t of Ho et al. 2020, equation 5 (KL for t > 0, NLL for t = 0), in bits/dim, [B]."""
    # The posterior's variance is 0 at t = 0; it takes the value of t = 1 (Nichol & Dhariwal 2021).
    inner = jnp.maximum(level, 1)
    floor = posterior(process, inner, inner - 1).variance
    q = posterior(process, level, level - 1)._replace(variance=floor)
    true_log_var = per_example(jnp.log(floor), x0)
    log_var = reverse_log_variance(q, frac)
    # Both means are of the same x.
    mean_error = reverse_mean(q, jnp.zeros_like(x0), x0_error)
    ratio = jnp.exp(true_log_var - log_var)
    kl = 0.5 * (log_var - true_log_var - 1 + ratio + mean_error**2 * jnp.exp(-log_var))

    # At t = 0 the mean of the reverse step is the predicted x0 itself.
    nll = discretized_gaussian_nll(x0, x0 + x0_error, 0.5 * log_var)
    nats = jnp.where(per_example(level, x0) == 0, nll, kl)
    return _mean_over_dimensions(nats) / np.log(2)


def discretized_gaussian_nll(x: Array, mean: Array, log_scale: Array) -> Array:
    """-log of the Gaussian's mass in x's bin of width 2/255 (Ho et al. 2020, equation 13).

    The outermost bins (|x| > 0.999) reach to infinity. Probabilities are floored at 1e-12.

    Args:
      x: data in [-1, 1] of 256 values (also applied to latents, as DiT does), any shape.
      mean: mean of the Gaussian, of x's shape.
      log_scale: natural logarithm of its standard deviation, of x's shape.
    Returns:
      nats, of x's shape.
    """
    inverse_scale = jnp.exp(-log_scale)
    upper = jnp.where(x > 0.999, jnp.inf, (x - mean + 1 / 255) * inverse_scale)
    lower = jnp.where(x < -0.999, -jnp.inf, (x - mean - 1 / 255) * inverse_scale)
    # P(lower < z < upper) = P(-upper < z < -lower): the left tail keeps float32's precision.
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
    """Build the loss of examples at noise levels u, which training, validation and the study of
    difficulty share.

    Args:
      apply: (params, scaled x [B, ..., C], time input [B], condition, PRNG key or None) -> raw
        output [B, ..., C or 2C]. A condition is a dict of arrays [B, ...], such as label int32[B].
      loss: what `make_loss` returns.
      log_variance: (params, native level [B]) -> learned uncertainty [B]
        (`diffusion.uncertainty`); None for none.

    Returns:
      example_loss(params, x0, eps, u, condition, key) -> (loss[B], eps_error[B]); u is f32[B].
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
