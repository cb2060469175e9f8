"""Euler's method on the probability-flow ODE, in the native level."""

import jax
import jax.numpy as jnp
import numpy as np

from cdt.diffusion.denoiser import Denoise
from cdt.diffusion.process import Process
from cdt.sampling.grids import ScanInputs, scan_inputs
from cdt.sampling.noise import Noise


def slope(denoise: Denoise, process: Process, x: jax.Array, level: jax.Array) -> jax.Array:
    """dx/dlevel = alpha' x0 + sigma' eps, at a scalar level that is not the clean end.

    For EDM this is (x - D)/sigma (Karras et al. 2022, equation 3 with s = 1); for flow matching,
    the velocity (Ma et al. 2024, equation 6).

    Raises:
      ValueError: for a discrete family, which has no derivative in its level.
    """
    if process.derivatives is None:
        raise ValueError(
            f"an ODE solver was given the discrete family {process.name!r} but needs edm or flow; "
            "use the ddim or ancestral sampler"
        )
    x0, eps, _ = denoise(x, jnp.full(len(x), level))
    d_alpha, d_sigma = process.derivatives(level)
    return d_alpha * x0 + d_sigma * eps


def euler(
    denoise: Denoise, process: Process, levels: np.ndarray, x: jax.Array, noise: Noise
) -> jax.Array:
    """First-order steps; deterministic, one evaluation of the denoiser a step.

    Args: see `cdt.sampling`; noise is not used.
    Raises:
      ValueError: for a discrete family.
    """
    del noise

    def step(x: jax.Array, inputs: ScanInputs) -> tuple[jax.Array, None]:
        _, level, next_level = inputs
        return x + (next_level - level) * slope(denoise, process, x, level), None

    x, _ = jax.lax.scan(step, x, scan_inputs(levels))
    return x
