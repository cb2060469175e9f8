"""DPM-Solver++(2M), compared with diffusers' multistep scheduler on a closed-form denoiser."""

import jax.numpy as jnp
import numpy as np
import torch
from diffusers import DPMSolverMultistepScheduler

from cdt.diffusion import process, schedules
from cdt.diffusion.denoiser import Denoised
from cdt.sampling import grids
from cdt.sampling.dpm_solver import dpm_solver

MEAN, VARIANCE = 0.3, 0.2


def x_theta(x, alpha, sigma):
    """E[x0 | x] of Gaussian data."""
    return MEAN + alpha * VARIANCE * (x - alpha * MEAN) / (alpha**2 * VARIANCE + sigma**2)


def test_twenty_steps_from_the_same_noise():
    betas = schedules.linear_betas(1000)
    p, grid = process.ddpm(betas), grids.rounded_timesteps(1000, 20)
    start = np.random.default_rng(0).standard_normal((8, 2, 2, 1)).astype(np.float32)

    def denoise(x, level):
        alpha, sigma = (c[0] for c in p.alpha_sigma(level))
        return Denoised(x_theta(x, alpha, sigma), None, None)

    ours = dpm_solver(denoise, p, grid, jnp.asarray(start), None)

    scheduler = DPMSolverMultistepScheduler(
        trained_betas=betas, solver_order=2, algorithm_type="dpmsolver++", solver_type="midpoint",
        prediction_type="sample", final_sigmas_type="zero",
    )  # fmt: skip
    scheduler.set_timesteps(timesteps=grid[:-1].astype(int).tolist())
    x, alpha_bar = torch.from_numpy(start).double(), np.cumprod(1 - betas)
    for t in scheduler.timesteps:
        alpha, sigma = np.sqrt(alpha_bar[int(t)]), np.sqrt(1 - alpha_bar[int(t)])
        x = scheduler.step(x_theta(x, alpha, sigma), t, x).prev_sample
    np.testing.assert_allclose(ours, x.numpy(), atol=1e-5)
