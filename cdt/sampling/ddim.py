"""DDIM (Song, Meng & Ermon 2021), written in alpha and sigma for every family."""

import jax
import jax.numpy as jnp
import numpy as np

from cdt.diffusion.denoiser import Denoise
from cdt.diffusion.process import Process
from cdt.diffusion.reverse_step import posterior
from cdt.sampling.grids import ScanInputs, scan_inputs
from cdt.sampling.noise import Noise


def ddim(
    denoise: Denoise,
    process: Process,
    levels: np.ndarray,
    x: jax.Array,
    noise: Noise,
    eta: float = 0.0,
) -> jax.Array:
    """Sample x0 f32[B, ...] with DDIM.

    Args:
      denoise: see `make_denoiser`.
      process: noise family.
      levels: f64 [steps + 1] native levels, the most noise first, the clean end last.
      x: f32[B, ...], noise at levels[0].
      noise: step -> standard normal f32[B, ...]; not used if eta is 0.
      eta: in [0, 1], the noise of a step as a fraction of the posterior's standard deviation: 0 is
        deterministic, 1 is ancestral sampling.

    Raises:
      ValueError: eta outside [0, 1].

    Source: Song, Meng & Ermon 2021, arXiv 2010.02502, equation 12.
    """
    if not 0 <= eta <= 1:
        raise ValueError(f"DDIM's eta is {eta}; it must lie in [0, 1]. 0 is deterministic.")

    def step(x: jax.Array, inputs: ScanInputs) -> tuple[jax.Array, None]:
        i, level, next_level = inputs
        x0, eps, _ = denoise(x, jnp.full(len(x), level))
        alpha, sigma = process.alpha_sigma(next_level)
        if eta == 0:
            return alpha * x0 + sigma * eps, None
        q = posterior(process, level, next_level)
        std = eta * jnp.sqrt(q.variance)  # equation 16
        # sqrt(sigma^2 - std^2), with sigma^2 - q.variance = (q.x_scale sigma_t)^2: in float32 the
        # difference itself is imprecise if eta = 1 and x_t is nearly pure noise.
        _, sigma_t = process.alpha_sigma(level)
        direction = jnp.sqrt((1 - eta**2) * sigma**2 + (eta * q.x_scale * sigma_t) ** 2)
        return alpha * x0 + direction * eps + std * noise(i), None  # equation 12

    x, _ = jax.lax.scan(step, x, scan_inputs(levels))
    return x
