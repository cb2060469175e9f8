"""The reverse step: the posterior q(x_s | x_t, x0) of a cleaner level, and a model's step by it."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from cdt.diffusion.process import Process, per_example


class Posterior(NamedTuple):
    """q(x_s | x_t, x0) = N(x_scale x_t + x0_scale x0, variance), for a level s cleaner than t.

    `variance` is the lower bound on the variance of the reverse step, 0 where s is the clean end;
    `beta`, the variance of q(x_t | x_s), is the upper bound for data of unit variance.
    """

    x_scale: jax.Array
    x0_scale: jax.Array
    beta: jax.Array
    variance: jax.Array


def posterior(process: Process, level: jax.Array, next_level: jax.Array) -> Posterior:
    """Coefficients of q(x_s | x_t, x0) between any two levels (Kingma et al. 2021, appendix A.2).

    For consecutive DDPM timesteps these are Ho et al. 2020, equations 6-7; for the retained
    timesteps of a respaced sampler they are those of the recomputed betas.

    Args:
      level: t, any shape, noisier than next_level and not the clean end.
      next_level: s, of level's shape; may be the clean end.
    """
    alpha_t, sigma_t = process.alpha_sigma(level)
    alpha_s, sigma_s = process.alpha_sigma(next_level)
    alpha_ts = alpha_t / alpha_s
    # Not 1 - alpha_ts^2, which holds for variance-preserving families only and cancels in float32.
    beta = sigma_t**2 - (alpha_ts * sigma_s) ** 2
    shrink = (sigma_s / sigma_t) ** 2
    return Posterior(alpha_ts * shrink, alpha_s * beta / sigma_t**2, beta, beta * shrink)


def reverse_mean(q: Posterior, x: jax.Array, x0: jax.Array) -> jax.Array:
    """The mean of p(x_s | x_t): that of the posterior with the predicted x0.

    Linear in (x, x0) together, so an error of x0 becomes the error of the mean with x = 0.

    Args:
      q: coefficients, scalars or [B].
      x: x_t [B, ...].
      x0: what the model predicts, of x's shape.

    Source: Ho et al. 2020, equation 7.
    """
    return per_example(q.x_scale, x) * x + per_example(q.x0_scale, x0) * x0


def reverse_log_variance(q: Posterior, var_frac: jax.Array) -> jax.Array:
    """The learned log variance of p(x_s | x_t): frac log beta + (1 - frac) log variance.

    At the clean end, where q.variance is 0, its logarithm is that of the smallest normal number.

    Args:
      q: coefficients, scalars or [B].
      var_frac: [B, ...], (v + 1)/2 of the network's value v; it may leave [0, 1].

    Source: Nichol & Dhariwal 2021, equation 15.
    """
    lower = jnp.log(jnp.maximum(q.variance, jnp.finfo(var_frac.dtype).tiny))
    upper = jnp.log(q.beta)
    return var_frac * per_example(upper, var_frac) + (1 - var_frac) * per_example(lower, var_frac)
