"""Ancestral sampling of Gaussian data: exact moments for any number of steps."""

import jax.numpy as jnp
import numpy as np
import pytest

from cdt.diffusion import process, schedules
from cdt.sampling import grids
from cdt.sampling.ancestral import ancestral


def test_the_right_variance_fraction_gives_the_exact_distribution(family):
    """p(x_s | x_t) of Gaussian data is Gaussian. With its variance the only error of the sampler is
    that of the last step, which adds no noise."""
    data, make_grid = family
    steps = 10
    grid = make_grid(steps)
    fractions = np.zeros((steps, *data.mean.shape))
    for i, (t, s) in enumerate(zip(grid[:-2], grid[1:-1], strict=True)):
        (alpha_t, sigma_t), (alpha_s, sigma_s) = data.alpha_sigma(t), data.alpha_sigma(s)
        beta = sigma_t**2 - (alpha_t / alpha_s * sigma_s) ** 2
        _, prior = data.marginal(s)
        exact = 1 / (1 / prior + (alpha_t / alpha_s) ** 2 / beta)
        low = beta * (sigma_s / sigma_t) ** 2
        fractions[i] = np.log(exact / low) / np.log(beta / low)
    fractions[-1] = np.linspace(-3, 4, data.mean.size).reshape(
        data.mean.shape
    )  # must have no effect

    def denoise(x, level):
        i = jnp.argmin(abs(jnp.float32(grid[:-1]) - level[0]))
        var_frac = jnp.broadcast_to(jnp.float32(fractions)[i], x.shape)
        return data.denoise(x, level)._replace(var_frac=var_frac)

    noise, x = data.start(grid, 20_000)
    out = ancestral(denoise, data.process, grid, x, noise)
    alpha, _ = data.alpha_sigma(grid[-2])
    _, variance = data.marginal(grid[-2])
    data.assert_moments(out, data.mean, alpha**2 * data.variance**2 / variance)


@pytest.mark.long  # many steps of many samples
def test_many_steps_give_the_exact_distribution_without_learned_variance(gaussian):
    data, grid = (
        gaussian(process.ddpm(schedules.linear_betas(1000))),
        grids.rounded_timesteps(1000, 1000),
    )
    noise, x = data.start(grid, 4000)
    out = ancestral(data.denoise, data.process, grid, x, noise)
    data.assert_moments(out, data.mean, data.variance, slack=0.02)


def test_the_last_step_adds_no_noise(gaussian):
    """For any variance fraction; that of a network can lie outside [0, 1]."""
    data, grid = gaussian(process.flow(schedules.linear_path())), np.array([0.5, 0.0])
    noise, x = data.start(grid, 64)
    fractions = jnp.linspace(-3, 4, x.size).reshape(x.shape)

    def denoise(x, level):
        return data.denoise(x, level)._replace(var_frac=fractions)

    x0 = data.denoise(x, jnp.full(64, grid[0], jnp.float32)).x0
    out = ancestral(denoise, data.process, grid, x, noise)
    np.testing.assert_allclose(out, x0, atol=1e-6)


def test_the_fraction_interpolates_the_log_variances(gaussian):
    data, grid = gaussian(process.flow(schedules.gvp_path())), np.array([0.5, 0.4])
    n = 20_000
    noise, x = data.start(grid, n)
    x = jnp.broadcast_to(x[:1], x.shape)  # the same x: the variance is that of the step
    fractions = np.array([0.0, 0.3, 0.7, 1.0]).reshape(data.mean.shape)

    def denoise(x, level):
        var_frac = jnp.broadcast_to(jnp.float32(fractions), x.shape)
        return data.denoise(x, level)._replace(var_frac=var_frac)

    (alpha_t, sigma_t), (alpha_s, sigma_s) = (data.alpha_sigma(level) for level in grid)
    beta = sigma_t**2 - (alpha_t / alpha_s * sigma_s) ** 2
    expected = beta**fractions * (beta * (sigma_s / sigma_t) ** 2) ** (1 - fractions)
    out = np.asarray(ancestral(denoise, data.process, grid, x, noise), np.float64)
    np.testing.assert_allclose(out.var(0), expected, rtol=5 * np.sqrt(2 / n))
