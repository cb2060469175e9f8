"""Euler and Heun on Gaussian data: error against the exact ODE, order of convergence, churn."""

import jax.numpy as jnp
import numpy as np
import pytest

from cdt.diffusion import process, schedules
from cdt.sampling import grids
from cdt.sampling.ddim import ddim
from cdt.sampling.euler import euler
from cdt.sampling.heun import heun


@pytest.mark.parametrize("sampler, order, largest", [(euler, 1, 0.05), (heun, 2, 2e-3)])
def test_converges_to_the_ode_with_its_order(continuous, sampler, order, largest):
    data, grid = continuous
    errors = []
    for n in (64, 128):
        noise, x = data.start(grid(n), 64)
        out = sampler(data.denoise, data.process, grid(n), x, noise)
        errors.append(abs(out - data.flow_map(x, grid(n)[0])).max())
    np.testing.assert_allclose(np.log2(errors[0] / errors[1]), order, atol=0.06)
    assert errors[1] < largest


def test_edm_euler_is_ddim(gaussian):
    """In sigma the Euler step and DDIM are equal (Karras et al. 2022, section 4)."""
    data, grid = gaussian(process.edm()), grids.karras_sigmas(20)
    noise, x = data.start(grid, 64)
    out = euler(data.denoise, data.process, grid, x, noise)
    expected = ddim(data.denoise, data.process, grid, x, noise)
    np.testing.assert_allclose(out, expected, atol=1e-4)


def test_heun_is_algorithm_1(gaussian):
    """Against a float64 loop of the algorithm, with sigma(t) = t and s(t) = 1."""
    data, grid = gaussian(process.edm()), grids.karras_sigmas(12)
    noise, x = data.start(grid, 64)

    def denoised(y, s):
        return data.mean + data.variance / (data.variance + s**2) * (y - data.mean)

    y = np.asarray(x, np.float64)
    for i in range(12):
        d = (y - denoised(y, grid[i])) / grid[i]
        following = y + (grid[i + 1] - grid[i]) * d
        if grid[i + 1] != 0:
            d_next = (following - denoised(following, grid[i + 1])) / grid[i + 1]
            following = y + (grid[i + 1] - grid[i]) * (d + d_next) / 2
        y = following
    out = heun(data.denoise, data.process, grid, x, noise)
    np.testing.assert_allclose(out, y, atol=1e-4)


def test_heun_never_evaluates_the_clean_end(continuous):
    data, grid = continuous

    def denoise(x, level):
        denoised = data.denoise(x, level)
        return denoised._replace(x0=jnp.where(level[0] > 0, denoised.x0, jnp.nan))

    noise, x = data.start(grid(5), 64)
    assert jnp.all(jnp.isfinite(heun(denoise, data.process, grid(5), x, noise)))


def test_one_heun_step_is_an_euler_step(gaussian):
    data, grid = gaussian(process.edm()), grids.karras_sigmas(1)
    noise, x = data.start(grid, 64)
    out = heun(data.denoise, data.process, grid, x, noise)
    expected = euler(data.denoise, data.process, grid, x, noise)
    np.testing.assert_allclose(out, expected, atol=1e-4)


def test_churn_keeps_the_distribution(gaussian):
    data, grid = gaussian(process.edm()), grids.karras_sigmas(64)
    noise, x = data.start(grid, 20_000)
    options = {"S_churn": 20.0, "S_min": 0.05, "S_max": 50.0, "S_noise": 1.0}
    out = heun(data.denoise, data.process, grid, x, noise, **options)
    data.assert_moments(out, data.mean, data.variance, slack=0.02)
    # The result differs from the deterministic one.
    plain = heun(data.denoise, data.process, grid, x, noise)
    assert np.corrcoef(np.ravel(out[..., 1, 1, 0]), np.ravel(plain[..., 1, 1, 0]))[0, 1] < 0.9


@pytest.mark.parametrize("S_churn", [3.0, 1000.0])
def test_churn_is_algorithm_2(gaussian, S_churn):
    """The variance after each step with churn, by its recursion in float64."""
    S_min, S_max, S_noise, n = 0.05, 50.0, 1.1, 12
    data, grid = gaussian(process.edm()), grids.karras_sigmas(n)
    _, variance = data.marginal(grid[0])

    def slope(s):  # d = (y - D(y))/s = slope (y - mean)
        return s / (data.variance + s**2)

    for s, following in zip(grid[:-1], grid[1:], strict=True):
        gamma = min(S_churn / n, np.sqrt(2) - 1) if S_min <= s <= S_max else 0.0
        raised = s * (1 + gamma)
        variance = variance + S_noise**2 * (raised**2 - s**2)
        scale = 1 + (following - raised) * slope(raised)
        if following > 0:
            scale = 1 + (following - raised) * (slope(raised) + slope(following) * scale) / 2
        variance = scale**2 * variance
    noise, x = data.start(grid, 20_000)
    options = {"S_churn": S_churn, "S_min": S_min, "S_max": S_max, "S_noise": S_noise}
    out = heun(data.denoise, data.process, grid, x, noise, **options)
    data.assert_moments(out, data.mean, variance)


def test_errors(gaussian):
    x = jnp.zeros((1, 2, 2, 1))
    discrete = gaussian(process.ddpm(schedules.linear_betas(1000)))
    for sampler in (euler, heun):
        with pytest.raises(ValueError, match="need the family edm or flow, not 'ddpm'"):
            sampler(discrete.denoise, discrete.process, grids.rounded_timesteps(1000, 5), x, None)
    flow = gaussian(process.flow(schedules.linear_path()))
    with pytest.raises(ValueError, match="for the family 'flow'; it must be 0 except for edm"):
        heun(flow.denoise, flow.process, grids.uniform_times(5), x, None, S_churn=1.0)
    with pytest.raises(ValueError, match="S_churn is -1; it must be at least 0"):
        heun(flow.denoise, flow.process, grids.uniform_times(5), x, None, S_churn=-1)
