"""The denoiser that samplers call: a network with its output converted to x0 and eps."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from cdt.diffusion.prediction import Prediction, split_output, to_x0_eps
from cdt.diffusion.process import Process, per_example


class Denoised(NamedTuple):
    """The estimates of a denoiser, float32, of x's shape.

    Attributes:
      x0: estimate of the clean data.
      eps: estimate of the noise; x = alpha x0 + sigma eps holds, also after clipping.
      var_frac: (v + 1)/2 of the network's variance output v: 0 is the variance of the posterior,
        1 is beta (see `reverse_log_variance`). None if the network learns no variance.
    """

    x0: jax.Array
    eps: jax.Array
    var_frac: jax.Array | None


# The conditioning of each example: arrays [B, ...] by name, such as label int32[B].
Condition = dict[str, jax.Array]
# (x [B, ..., C], native level [B], condition) -> raw output [B, ..., C or 2C]
ConditionalNetwork = Callable[[jax.Array, jax.Array, Condition], jax.Array]
# The same with a fixed condition: (x, native level) -> raw output
Network = Callable[[jax.Array, jax.Array], jax.Array]
Denoise = Callable[[jax.Array, jax.Array], Denoised]  # (x [B, ..., C], native level [B])


def make_denoiser(
    network: Network,
    process: Process,
    prediction: Prediction,
    learn_variance: bool = False,
    clip: bool = False,
) -> Denoise:
    """Return denoise(x [B, ..., C], native level [B]) -> Denoised.

    Args:
      network: (x [B, ..., C], native level [B]) -> raw output [B, ..., C or 2C]. It applies the
        input scale c_in and the time input itself.
      process: noise family.
      prediction: what the network predicts.
      learn_variance: True if the output has 2C channels.
      clip: clip x0 to [-1, 1] and recompute eps from it; for pixels, not for latents.
    """

    def denoise(x: jax.Array, level: jax.Array) -> Denoised:
        mean, variance = split_output(network(x, level), x.shape[-1], learn_variance)
        x0, eps = to_x0_eps(process, prediction, mean, x, level)
        if clip:
            alpha, sigma = (per_example(c, x) for c in process.alpha_sigma(level))
            x0 = jnp.clip(x0, -1, 1)
            eps = (x - alpha * x0) / sigma
        return Denoised(x0, eps, None if variance is None else (variance + 1) / 2)

    return denoise
