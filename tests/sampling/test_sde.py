"""Euler-Maruyama on Gaussian data: the recursion of the moments, and many small steps."""

import jax.numpy as jnp
import numpy as np
import pytest

from cdt.diffusion import process, schedules
from cdt.sampling import grids
from cdt.sampling.euler_maruyama import euler_maruyama

PATHS = {
    "linear": (schedules.linear_path, lambda t: (1 - t, t, -1.0, 1.0)),
    "gvp": (
        schedules.gvp_path,
        lambda t: (
            np.cos(np.pi * t / 2), np.sin(np.pi * t / 2),
            -np.pi / 2 * np.sin(np.pi * t / 2), np.pi / 2 * np.cos(np.pi * t / 2),
        ),
    ),
}  # fmt: skip


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("steps", [2, 12])
def test_moments_follow_the_sde_step_by_step(gaussian, path, steps):
    """The SDE of Gaussian data is linear: a step scales, shifts and adds the variance 2 sigma dt.

    Computed from the score of the marginal, -(x - mean)/variance, not from the eps of the denoiser.
    """
    make, coefficients = PATHS[path]
    data, grid = gaussian(process.flow(make())), grids.uniform_times_to(steps, 0.04)
    mean, variance = data.marginal(grid[0])
    for i, (t, following) in enumerate(zip(grid[:-1], grid[1:], strict=True)):
        alpha, sigma, d_alpha, d_sigma = coefficients(t)
        marginal_mean, marginal = alpha * data.mean, alpha**2 * data.variance + sigma**2
        # v = E[alpha' x0 + sigma' eps | x], linear in x for Gaussians.
        slope = (d_alpha * alpha * data.variance + d_sigma * sigma) / marginal
        w = 2 * sigma
        step = following - t
        scale = 1 + step * (slope + w / 2 / marginal)
        mean = mean + step * (
            d_alpha * data.mean + (slope + w / 2 / marginal) * (mean - marginal_mean)
        )
        variance = scale**2 * variance - (w * step if i < steps - 1 else 0.0)
    noise, x = data.start(grid, 20_000)
    out = euler_maruyama(data.denoise, data.process, grid, x, noise)
    data.assert_moments(out, mean, variance)


@pytest.mark.long  # many steps of many samples
def test_many_small_steps_give_the_data(gaussian):
    data, grid = gaussian(process.flow(schedules.linear_path())), grids.uniform_times_to(500, 0.004)
    noise, x = data.start(grid, 20_000)
    out = euler_maruyama(data.denoise, data.process, grid, x, noise)
    data.assert_moments(out, data.mean, data.variance, slack=0.02)
    # The correlation with the initial noise decays at the rate w / (2 variance).
    t = np.linspace(0, 1, 10_001)
    marginal = (1 - t) ** 2 * data.variance[1, 1, 0] + t**2
    expected = np.exp(-np.trapezoid(t / marginal, t))
    found = np.corrcoef(out[:, 1, 1, 0], x[:, 1, 1, 0])[0, 1]
    np.testing.assert_allclose(found, expected, atol=0.03)


def test_an_example_depends_on_its_own_key_only(gaussian):
    data, grid = gaussian(process.flow(schedules.linear_path())), grids.uniform_times_to(5, 0.04)
    noise, x = data.start(grid, 6)
    out = euler_maruyama(data.denoise, data.process, grid, x, noise)
    part = euler_maruyama(data.denoise, data.process, grid, x[2:4], lambda i: noise(i)[2:4])
    np.testing.assert_allclose(part, out[2:4], atol=1e-6)


def test_errors(gaussian):
    x = jnp.zeros((1, 2, 2, 1))
    edm = gaussian(process.edm())
    with pytest.raises(ValueError, match="needs the family flow, not 'edm'"):
        euler_maruyama(edm.denoise, edm.process, grids.karras_sigmas(5), x, None)
    for last in (0, 1, -0.1):
        with pytest.raises(ValueError, match="last step of the grid is"):
            grids.uniform_times_to(5, last)
