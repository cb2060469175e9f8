"""Heun's method on the probability-flow ODE, with EDM's churn (Karras et al. 2022)."""

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
    """Second-order steps, the last one Euler: 2 steps - 1 evaluations of the denoiser.

    With S_churn = 0 this is algorithm 1 of the paper (for flow matching the same in t), otherwise
    algorithm 2: each step whose sigma lies in [S_min, S_max] first adds noise up to
    sigma (1 + min(S_churn / steps, sqrt(2) - 1)), scaled by S_noise.

    Args: see `cdt.sampling`.
    Raises:
      ValueError: for a discrete family, a negative S_churn, or churn on a family other than edm.
    """
    if S_churn < 0:
        raise ValueError(f"Heun was given S_churn = {S_churn} but needs 0 or more; 0 is no churn")
    if S_churn > 0 and process.name != "edm":
        raise ValueError(
            f"Heun was given S_churn = {S_churn} on the family {process.name!r} but churn is "
            "defined for edm alone; set S_churn = 0"
        )
    indices, starts, ends = scan_inputs(levels)

    def churn(x: jax.Array, level: jax.Array, i: jax.Array) -> tuple[jax.Array, jax.Array]:
        most = min(S_churn / len(starts), np.sqrt(2) - 1)
        gamma = jnp.where((level >= S_min) & (level <= S_max), most, 0.0)
        raised = level * (1 + gamma)  # algorithm 2, line 5
        eps = S_noise * noise(i)  # line 4
        # Line 6; raised^2 - level^2 as a product, which rounding cannot make negative.
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
