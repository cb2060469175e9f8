"""Samplers: from noise at levels[0] to data, each one function under `lax.scan`.

samplers         ancestral, ddim, dpm_solver, euler, heun, euler_maruyama
grids of levels  rounded_timesteps, strided_timesteps, karras_sigmas, uniform_times,
                 uniform_times_to
random numbers   keyed_noise, initial_noise, Noise, START

A sampler takes `(denoise, process, levels, x, noise, **options)` and returns x0 [B, ...]: `denoise`
is `make_denoiser`'s, `levels` a grid, `x` from `initial_noise`, `noise` from `keyed_noise`. An
example depends on its own key alone, not on its batch.
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
