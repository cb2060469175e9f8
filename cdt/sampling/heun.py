"""Heun's method for the probability-flow ODE, with EDM's churn (Karras et al. 2022)."""

import jax
import jax.numpy as jnp
import numpy as np

from cdt.diffusion.denoiser import Denoise
from cdt.diffusion.process import Process
from cdt.sampling.euler import slope
from cdt.sampling.grids import ScanInputs, scan_inputs
from cdt.sampling.noise import Noise


def heun(
    denoise: Denoise,
    process: Process,
    levels: np.ndarray,
    x: jax.Array,
    noise: Noise,
    S_churn: float = 0.0,
    S_min: float = 0.0,
    S_max: float = float("inf"),
    S_noise: float = 1.0,
) -> jax.Array:
    """Sample x0 f32[B, ...] with second-order steps; 2 steps - 1 evaluations of the denoiser.

    The last step is an Euler step. With S_churn = 0 the sampler is deterministic: algorithm 1 of
    the paper, in t for flow matching. Otherwise it is algorithm 2: each step with sigma in
    [S_min, S_max] first adds noise, which raises sigma by the factor
    1 + min(S_churn / steps, sqrt(2) - 1).

    Args:
      denoise: see `make_denoiser`.
      process: a continuous noise family.
      levels: f64 [steps + 1] native levels, the most noise first, the clean end last.
      x: f32[B, ...], noise at levels[0].
      noise: step -> standard normal f32[B, ...]; not used if S_churn is 0.
      S_churn: amount of added noise, >= 0; EDM only.
      S_min: smallest sigma at which noise is added.
      S_max: largest sigma at which noise is added.
      S_noise: factor of the added noise.

    Raises:
      ValueError: a discrete family, S_churn < 0, or S_churn > 0 for a family other than edm.

    Source: Karras et al. 2022, arXiv 2206.00364, algorithms 1 and 2.
    """
    if S_churn < 0:
        raise ValueError(f"Heun's S_churn is {S_churn}; it must be at least 0. 0 adds no noise.")
    if S_churn > 0 and process.name != "edm":
        raise ValueError(
            f"Heun's S_churn is {S_churn} for the family '{process.name}'; it must be 0 except for "
            "edm."
        )
    indices, starts, ends = scan_inputs(levels)

    def churn(x: jax.Array, level: jax.Array, i: jax.Array) -> tuple[jax.Array, jax.Array]:
        most = min(S_churn / len(starts), np.sqrt(2) - 1)
        gamma = jnp.where((level >= S_min) & (level <= S_max), most, 0.0)
        raised = level * (1 + gamma)  # algorithm 2, line 5
        eps = S_noise * noise(i)  # line 4
        # Line 6; raised^2 - level^2 as a product, which cannot be negative after rounding.
        return x + level * jnp.sqrt(gamma * (2 + gamma)) * eps, raised

    def euler_step(
        x: jax.Array, inputs: ScanInputs
    ) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
        i, level, next_level = inputs
        if S_churn > 0:
            x, level = churn(x, level, i)
        d = slope(denoise, process, x, level)  # line 7
        return x, level, d, x + (next_level - level) * d  # line 8

    def step(x: jax.Array, inputs: ScanInputs) -> tuple[jax.Array, None]:
        next_level = inputs[2]
        x, level, d, x_next = euler_step(x, inputs)
        d_next = slope(denoise, process, x_next, next_level)  # line 10
        return x + (next_level - level) * (d + d_next) / 2, None  # line 11

    x, _ = jax.lax.scan(step, x, (indices[:-1], starts[:-1], ends[:-1]))
    # Line 9: no correction where the step ends at sigma = 0.
    return euler_step(x, (indices[-1], starts[-1], ends[-1]))[-1]
