"""Samplers, the grids of levels that they step on, and their random numbers.

samplers         ancestral, ddim, dpm_solver, euler, heun, euler_maruyama
grids of levels  rounded_timesteps, strided_timesteps, karras_sigmas, uniform_times,
                 uniform_times_to
random numbers   keyed_noise, initial_noise, Noise, START

A sampler is called as `sampler(denoise, process, levels, x, noise, **options)` and returns
x0 f32[B, ...]:

    denoise  the function returned by `make_denoiser`
    process  the noise family
    levels   a grid: f64 [steps + 1] native levels, the most noise first, the clean end last
    x        f32[B, ...] at levels[0], from `initial_noise`
    noise    step -> standard normal f32[B, ...], from `keyed_noise`

Each step of a sampler runs in `jax.lax.scan`. An example depends on its key and its conditioning
only, not on the rest of the batch.
"""

from cdt.sampling.ancestral import ancestral
from cdt.sampling.ddim import ddim
from cdt.sampling.dpm_solver import dpm_solver
from cdt.sampling.euler import euler
from cdt.sampling.euler_maruyama import euler_maruyama
from cdt.sampling.grids import (
    karras_sigmas,
    rounded_timesteps,
    strided_timesteps,
    uniform_times,
    uniform_times_to,
)
from cdt.sampling.heun import heun
from cdt.sampling.noise import START, Noise, initial_noise, keyed_noise

__all__ = [
    "Noise", "START", "ancestral", "ddim", "dpm_solver", "euler", "euler_maruyama", "heun",
    "initial_noise", "karras_sigmas", "keyed_noise", "rounded_timesteps", "strided_timesteps",
    "uniform_times", "uniform_times_to",
]  # fmt: skip
