"""DPM-Solver++(2M), a multistep solver in the log-SNR (Lu et al. 2022, arXiv 2211.01095)."""

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
    """Second-order steps for one evaluation of the denoiser each; deterministic.

    Algorithm 2, in alpha and sigma so that it serves every family. The first step and the last one,
    which ends at an infinite log-SNR, are of first order.

    Args: see `cdt.sampling`; noise is not used.
    """
    del noise
    inputs = scan_inputs(levels)
    alpha, sigma = process.alpha_sigma(jnp.asarray(levels, jnp.float32))
    # Of flow matching at u = 1 alpha is 0, or on the GVP path a rounding error of either sign.
    lambdas = jnp.log(jnp.maximum(alpha, 0.0) / sigma)
    h = jnp.diff(lambdas)
    x_scale = sigma[1:] / sigma[:-1]
    x0_scale = alpha[1:] - alpha[:-1] * x_scale  # -alpha (exp(-h) - 1)
    # 1 / (2 r) with r = h_{i-1} / h_i; none at both ends, nor after a step from lambda = -inf.
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
