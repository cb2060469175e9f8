"""The posterior q(x_s | x_t, x0) at a level s with less noise, and the reverse step of a model."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from cdt.diffusion.process import Process, per_example


class Posterior(NamedTuple):
    """Coefficients of q(x_s | x_t, x0) = N(x_scale x_t + x0_scale x0, variance).

    Attributes:
      x_scale: factor of x_t.
      x0_scale: factor of x0.
      beta: variance of q(x_t | x_s); for data of unit variance the upper bound of the reverse
        step's variance.
      variance: variance of q(x_s | x_t, x0), the lower bound of the reverse step's variance; 0 if
        s is the clean end.
    """

    x_scale: jax.Array
    x0_scale: jax.Array
    beta: jax.Array
    variance: jax.Array


def posterior(process: Process, level: jax.Array, next_level: jax.Array) -> Posterior:
    """Return the coefficients of q(x_s | x_t, x0) for any two levels.

    For consecutive DDPM timesteps they are those of Ho et al. 2020, equations 6 and 7. For a
    sampler with fewer timesteps they are those of its recomputed betas.

    Args:
      process: noise family.
      level: t, native level of any shape, with more noise than next_level.
      next_level: s, of level's shape; may be the clean end.

    Source: Kingma et al. 2021, arXiv 2107.00630, appendix A.2.
    """
    alpha_t, sigma_t = process.alpha_sigma(level)
    alpha_s, sigma_s = process.alpha_sigma(next_level)
    alpha_ts = alpha_t / alpha_s
    # Not 1 - alpha_ts^2, which is valid for variance-preserving families only and imprecise in
    # float32.
    beta = sigma_t**2 - (alpha_ts * sigma_s) ** 2
    shrink = (sigma_s / sigma_t) ** 2
    return Posterior(alpha_ts * shrink, alpha_s * beta / sigma_t**2, beta, beta * shrink)


def reverse_mean(q: Posterior, x: jax.Array, x0: jax.Array) -> jax.Array:
    """Return the mean of p(x_s | x_t): the posterior's mean for the predicted x0, of x's shape.

    It is linear in (x, x0): with x = 0, an error of x0 gives the error of the mean.

    Args:
      q: coefficients, scalars or [B].
      x: x_t [B, ...].
      x0: the model's prediction of x0, of x's shape.

    Source: Ho et al. 2020, equation 7.
    """
    return per_example(q.x_scale, x) * x + per_example(q.x0_scale, x0) * x0


def reverse_log_variance(q: Posterior, var_frac: jax.Array) -> jax.Array:
    """Return the learned log variance of p(x_s | x_t): frac log beta + (1 - frac) log variance.

    At the clean end q.variance is 0; the smallest normal float replaces it.

    Args:
      q: coefficients, scalars or [B].
      var_frac: [B, ...], (v + 1)/2 of the network's output v; can lie outside [0, 1].

    Returns:
      float[B, ...], of var_frac's shape.

    Source: Nichol & Dhariwal 2021, equation 15.
    """
    lower = jnp.log(jnp.maximum(q.variance, jnp.finfo(var_frac.dtype).tiny))
    upper = jnp.log(q.beta)
    return var_frac * per_example(upper, var_frac) + (1 - var_frac) * per_example(lower, var_frac)
