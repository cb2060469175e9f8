"""DPM-Solver++(2M) on Gaussian data: algorithm of the paper, order of convergence, few steps."""

import jax.numpy as jnp
import numpy as np
import pytest

from cdt.diffusion import process, schedules
from cdt.sampling import grids
from cdt.sampling.ddim import ddim
from cdt.sampling.dpm_solver import dpm_solver


def even_in_lambda(p, steps, least=1e-4):
    """Return levels from near pure noise to near the clean end, equally spaced in log-SNR."""
    u = np.linspace(least, 1.0 - least, 200_001)
    log_snr = p.log_snr(u)
    inner = np.interp(np.linspace(log_snr[-1], log_snr[0], steps), log_snr[::-1], u[::-1])
    return np.append(np.float64(p.level(jnp.float32(inner))), 0.0)


def test_converges_to_the_ode_with_order_2(continuous):
    data, _ = continuous
    errors = []
    for n in (100, 200):
        grid = even_in_lambda(data.process, n)
        noise, x = data.start(grid, 64)
        out = dpm_solver(data.denoise, data.process, grid, x, noise)
        errors.append(abs(out - data.flow_map(x, grid[0])).max())
    assert errors[1] < 5e-3
    np.testing.assert_allclose(np.log2(errors[0] / errors[1]), 2, atol=0.15)


def test_has_a_smaller_error_than_ddim_for_the_same_evaluations(family):
    data, grid = family
    noise, x = data.start(grid(200), 64)
    errors = [
        abs(
            sampler(data.denoise, data.process, grid(200), x, noise)
            - data.flow_map(x, grid(200)[0])
        )
        for sampler in (dpm_solver, ddim)
    ]
    assert errors[0].max() < errors[1].max() / 4


@pytest.mark.parametrize("name", ["ddpm", "edm"])
def test_is_algorithm_2(gaussian, name):
    """Against a float64 loop of the algorithm, in lambda = log(alpha / sigma)."""
    p, grid = {
        "ddpm": (process.ddpm(schedules.linear_betas(1000)), grids.rounded_timesteps(1000, 12)),
        "edm": (process.edm(), grids.karras_sigmas(12)),
    }[name]
    data = gaussian(p)
    noise, x = data.start(grid, 64)

    def x_theta(y, level):
        alpha, sigma = data.alpha_sigma(level)
        gap = (y - alpha * data.mean) / (alpha**2 * data.variance + sigma**2)
        return data.mean + alpha * data.variance * gap

    y, buffer, h_before = np.asarray(x, np.float64), None, None
    for start, end in zip(grid[:-2], grid[1:-1], strict=True):
        (alpha_s, sigma_s), (alpha_t, sigma_t) = data.alpha_sigma(start), data.alpha_sigma(end)
        h = np.log(alpha_t / sigma_t) - np.log(alpha_s / sigma_s)
        now = x_theta(y, start)
        D = now
        if buffer is not None:
            r = h_before / h
            D = (1 + 1 / (2 * r)) * now - 1 / (2 * r) * buffer
        y = sigma_t / sigma_s * y - alpha_t * (np.exp(-h) - 1) * D
        buffer, h_before = now, h
    expected = x_theta(y, grid[-2])  # exp(-h) = 0
    out = dpm_solver(data.denoise, p, grid, x, noise)
    np.testing.assert_allclose(out, expected, atol=1e-4)


@pytest.mark.parametrize("steps", [1, 2])
def test_one_and_two_steps_are_those_of_ddim(family, steps):
    """First and last step are of first order, where DPM-Solver++ is DDIM (section 3)."""
    data, grid = family
    noise, x = data.start(grid(steps), 16)
    out = dpm_solver(data.denoise, data.process, grid(steps), x, noise)
    assert jnp.isfinite(out).all()
    expected = ddim(data.denoise, data.process, grid(steps), x, noise)
    np.testing.assert_allclose(out, expected, atol=2e-4)
