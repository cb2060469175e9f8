"""From a network to what every sampler takes: the denoised image, the noise, the variance."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from cdt.diffusion.prediction import Prediction, split_output, to_x0_eps
from cdt.diffusion.process import Process, per_example


class Denoised(NamedTuple):
    """What a denoiser knows about x at a level; all of x's shape, float32."""

    x0: jax.Array
    eps: jax.Array  # x = alpha x0 + sigma eps holds, after clipping too
    var_frac: jax.Array | None  # (v + 1)/2 of a learned variance, which a sampler's pair of levels
    # turns into a variance: 0 is the posterior's, 1 is beta


# The conditioning of each example: arrays [B, ...] by name, such as label int32[B].
Condition = dict[str, jax.Array]
# (x [B, ..., C], native level [B], condition) -> raw output [B, ..., C or 2C]
ConditionalNetwork = Callable[[jax.Array, jax.Array, Condition], jax.Array]
Network = Callable[[jax.Array, jax.Array], jax.Array]  # the same of one condition
Denoise = Callable[[jax.Array, jax.Array], Denoised]  # (x [B, ..., C], native level [B])


def make_denoiser(
    network: Network,
    process: Process,
    prediction: Prediction,
    learn_variance: bool = False,
    clip: bool = False,
) -> Denoise:
    """Build denoise(x, level) -> Denoised.

    Args:
      network: (x [B, ..., C], native level [B]) -> raw output [B, ..., C or 2C]. The scale c_in
        and the time input are applied inside it.
      learn_variance: the output has 2C channels.
      clip: clip x0 to [-1, 1] and derive eps anew (for pixels; not for latents).
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
