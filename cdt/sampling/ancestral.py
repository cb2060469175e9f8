"""Ancestral sampling (Ho et al. 2020), for every family and any grid of levels."""

import jax
import jax.numpy as jnp
import numpy as np

from cdt.diffusion.denoiser import Denoise
from cdt.diffusion.process import Process
from cdt.diffusion.reverse_step import posterior, reverse_log_variance, reverse_mean
from cdt.sampling.grids import ScanInputs, scan_inputs
from cdt.sampling.noise import Noise


def ancestral(
    denoise: Denoise, process: Process, levels: np.ndarray, x: jax.Array, noise: Noise
) -> jax.Array:
    """Sample x0 f32[B, ...] by drawing x_s ~ p(x_s | x_t) from level to level.

    The variance is the learned one if the model has it, otherwise that of the posterior; the
    sampler is then DDIM with eta = 1. The last step, to the clean end, adds no noise.

    Args:
      denoise: see `make_denoiser`.
      process: noise family.
      levels: f64 [steps + 1] native levels, the most noise first, the clean end last.
      x: f32[B, ...], noise at levels[0].
      noise: step -> standard normal f32[B, ...].

    Source: Ho et al. 2020, arXiv 2006.11239, algorithm 2.
    """

    def step(x: jax.Array, inputs: ScanInputs) -> tuple[jax.Array, None]:
        i, level, next_level = inputs
        x0, _, var_frac = denoise(x, jnp.full(len(x), level))
        q = posterior(process, level, next_level)
        variance = q.variance if var_frac is None else jnp.exp(reverse_log_variance(q, var_frac))
        std = jnp.where(q.variance > 0, jnp.sqrt(variance), 0.0)  # 0 at the clean end
        return reverse_mean(q, x, x0) + std * noise(i), None

    x, _ = jax.lax.scan(step, x, scan_inputs(levels))
    return x
