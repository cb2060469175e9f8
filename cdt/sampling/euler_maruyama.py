"""The Euler-Maruyama method for the reverse-time SDE of flow matching (Ma et al. 2024, SiT)."""

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
    """Sample x0 f32[B, ...] from the SDE dx = [v - w s / 2] dt + sqrt(w) dW, backwards in t.

    s = -eps / sigma is the score and w = 2 sigma the diffusion coefficient: the drift is v + eps.
    The last step adds no noise ("Mean" in SiT's code). Each step evaluates the denoiser once. SiT
    uses 250 steps with the grid `uniform_times_to(250, 0.04)`.

    Args:
      denoise: see `make_denoiser`.
      process: a flow-matching family.
      levels: f64 [steps + 1] native levels, the most noise first, the clean end last.
      x: f32[B, ...], noise at levels[0].
      noise: step -> standard normal f32[B, ...].

    Raises:
      ValueError: a family other than flow.

    Source: Ma et al. 2024, arXiv 2401.08740, section 2. SiT's code calls this w "sigma".
    """
    derivatives = process.derivatives
    if process.name != "flow" or derivatives is None:
        raise ValueError(
            f"The sampler euler_maruyama needs the family flow, not '{process.name}'; use heun "
            "with S_churn for edm, or ancestral for ddpm."
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
