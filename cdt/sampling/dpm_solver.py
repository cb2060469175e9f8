"""DPM-Solver++(2M), a deterministic multistep solver (Lu et al. 2022), for every family."""

import jax
import jax.numpy as jnp
import numpy as np

from cdt.diffusion.denoiser import Denoise
from cdt.diffusion.process import Process
from cdt.sampling.grids import scan_inputs
from cdt.sampling.noise import Noise


def dpm_solver(
    denoise: Denoise, process: Process, levels: np.ndarray, x: jax.Array, noise: Noise
) -> jax.Array:
    """Sample x0 f32[B, ...] with second-order steps, one evaluation of the denoiser per step.

    The first step is of first order, and also the last one, where the log-SNR is infinite.

    Args:
      denoise: see `make_denoiser`.
      process: noise family.
      levels: f64 [steps + 1] native levels, the most noise first, the clean end last.
      x: f32[B, ...], noise at levels[0].
      noise: not used.

    Source: Lu et al. 2022, arXiv 2211.01095, algorithm 2.
    """
    del noise
    inputs = scan_inputs(levels)
    alpha, sigma = process.alpha_sigma(jnp.asarray(levels, jnp.float32))
    # In flow matching alpha at u = 1 is 0, and a rounding error could make it negative.
    lambdas = jnp.log(jnp.maximum(alpha, 0.0) / sigma)
    h = jnp.diff(lambdas)
    x_scale = sigma[1:] / sigma[:-1]
    x0_scale = alpha[1:] - alpha[:-1] * x_scale  # -alpha (exp(-h) - 1)
    # 1 / (2 r) with r = h_{i-1} / h_i; 0 in the first and last step, and after a step from
    # lambda = -inf.
    slope = jnp.zeros_like(h).at[1:-1].set(h[1:-1] / (2.0 * h[:-2]))

    def step(
        carry: tuple[jax.Array, jax.Array], inputs: tuple[jax.Array, ...]
    ) -> tuple[tuple[jax.Array, jax.Array], None]:
        x, x0_before = carry
        level, x_scale, x0_scale, slope = inputs
        x0, _, _ = denoise(x, jnp.full(len(x), level))
        extrapolated = x0 + slope * (x0 - x0_before)  # D_i
        return (x_scale * x + x0_scale * extrapolated, x0), None

    scanned = (inputs[1], x_scale, x0_scale, slope)
    (x, _), _ = jax.lax.scan(step, (x, jnp.zeros_like(x)), scanned)
    return x
