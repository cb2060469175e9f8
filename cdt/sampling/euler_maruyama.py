"""Euler-Maruyama on the reverse-time SDE of flow matching (Ma et al. 2024, SiT)."""

import jax
import jax.numpy as jnp
import numpy as np

from cdt.diffusion.denoiser import Denoise
from cdt.diffusion.process import Process
from cdt.sampling.grids import ScanInputs, scan_inputs
from cdt.sampling.noise import Noise


def euler_maruyama(
    denoise: Denoise, process: Process, levels: np.ndarray, x: jax.Array, noise: Noise
) -> jax.Array:
    """Stochastic steps of dx = [v - w s / 2] dt + sqrt(w) dW with w = 2 sigma, backwards in t.

    s = -eps / sigma is the score, so the drift is v + eps. The last step adds no noise (SiT's
    "Mean"). One evaluation of the denoiser a step; SiT takes 250, the last from t = 0.04: the grid
    `uniform_times_to(250, 0.04)`.

    Args: see `cdt.sampling`.
    Raises:
      ValueError: for a family other than flow.

    Source: Ma et al. 2024 (arXiv 2401.08740), equation 5, in whose code w is "sigma".
    """
    derivatives = process.derivatives
    if process.name != "flow" or derivatives is None:
        raise ValueError(
            f"Euler-Maruyama was given the family {process.name!r} but needs flow; edm has Heun's "
            "churn and ddpm the ancestral sampler"
        )
    indices, starts, ends = scan_inputs(levels)

    def drift_step(x: jax.Array, level: jax.Array, next_level: jax.Array) -> jax.Array:
        x0, eps, _ = denoise(x, jnp.full(len(x), level))
        d_alpha, d_sigma = derivatives(level)
        return x + (next_level - level) * (d_alpha * x0 + d_sigma * eps + eps)

    def step(x: jax.Array, inputs: ScanInputs) -> tuple[jax.Array, None]:
        i, level, next_level = inputs
        _, sigma = process.alpha_sigma(level)
        variance = 2 * sigma * (level - next_level)
        return drift_step(x, level, next_level) + jnp.sqrt(variance) * noise(i), None

    x, _ = jax.lax.scan(step, x, (indices[:-1], starts[:-1], ends[:-1]))
    return drift_step(x, starts[-1], ends[-1])
