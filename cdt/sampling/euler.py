"""Euler's method for the probability-flow ODE in the native level."""

import jax
import jax.numpy as jnp
import numpy as np

from cdt.diffusion.denoiser import Denoise
from cdt.diffusion.process import Process
from cdt.sampling.grids import ScanInputs, scan_inputs
from cdt.sampling.noise import Noise


def slope(denoise: Denoise, process: Process, x: jax.Array, level: jax.Array) -> jax.Array:
    """Return the right side of the ODE, dx/dlevel = alpha' x0 + sigma' eps, of x's shape.

    For EDM it is (x - D)/sigma (Karras et al. 2022, equation 3 with s = 1). For flow matching it is
    the velocity (Ma et al. 2024, section 2).

    Args:
      denoise: see `make_denoiser`.
      process: a continuous noise family.
      x: f32[B, ...] at this level.
      level: f32[], native level, not the clean end.

    Raises:
      ValueError: a discrete family, whose alpha and sigma have no derivatives.
    """
    if process.derivatives is None:
        raise ValueError(
            f"The ODE samplers euler and heun need the family edm or flow, not '{process.name}'; "
            "use ddim, dpm_solver or ancestral."
        )
    x0, eps, _ = denoise(x, jnp.full(len(x), level))
    d_alpha, d_sigma = process.derivatives(level)
    return d_alpha * x0 + d_sigma * eps


def euler(
    denoise: Denoise, process: Process, levels: np.ndarray, x: jax.Array, noise: Noise
) -> jax.Array:
    """Sample x0 f32[B, ...] with first-order steps; deterministic, one evaluation per step.

    Args:
      denoise: see `make_denoiser`.
      process: a continuous noise family.
      levels: f64 [steps + 1] native levels, the most noise first, the clean end last.
      x: f32[B, ...], noise at levels[0].
      noise: not used.

    Raises:
      ValueError: a discrete family.
    """
    del noise

    def step(x: jax.Array, inputs: ScanInputs) -> tuple[jax.Array, None]:
        _, level, next_level = inputs
        return x + (next_level - level) * slope(denoise, process, x, level), None

    x, _ = jax.lax.scan(step, x, scan_inputs(levels))
    return x
