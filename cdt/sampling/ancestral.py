"""Ancestral sampling (Ho et al. 2020, algorithm 2), between any two levels of any family."""

import jax
import jax.numpy as jnp
import numpy as np

from cdt.diffusion.denoiser import Denoise
from cdt.diffusion.process import Process, posterior
from cdt.sampling.grids import ScanInputs, scan_inputs
from cdt.sampling.noise import step_noise


def ancestral(
    denoise: Denoise, process: Process, levels: np.ndarray, x: jax.Array, keys: jax.Array
) -> jax.Array:
    """Draws x_s ~ p(x_s | x_t) down the grid; the last step, to the clean end, adds no noise.

    The variance is the learned one where the denoiser has it, else the posterior's (the lower
    bound; DDIM with eta = 1 is the same sampler then).

    Args: see `cdt.sampling`.
    """

    def step(x: jax.Array, inputs: ScanInputs) -> tuple[jax.Array, None]:
        i, level, next_level = inputs
        x0, _, var_frac = denoise(x, jnp.full(len(x), level))
        q = posterior(process, level, next_level)
        mean = q.x_scale * x + q.x0_scale * x0  # Ho et al. equation 7
        variance = q.variance
        if var_frac is not None:  # Nichol & Dhariwal 2021, equation 15, of this pair of levels
            low = jnp.log(jnp.maximum(q.variance, jnp.finfo(x.dtype).tiny))
            variance = jnp.exp(var_frac * jnp.log(q.beta) + (1 - var_frac) * low)
        std = jnp.where(q.variance > 0, jnp.sqrt(variance), 0.0)  # 0 at the clean end
        return mean + std * step_noise(keys, i, x.shape[1:]), None

    x, _ = jax.lax.scan(step, x, scan_inputs(levels))
    return x
