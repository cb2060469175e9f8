"""Ancestral sampling on Gaussian data: exact moments at any number of steps."""

import jax.numpy as jnp
import numpy as np
import pytest

from cdt.sampling.ancestral import ancestral


@pytest.mark.parametrize("steps", [10, 100])
def test_the_right_variance_fraction_gives_the_exact_distribution(family, steps):
    """p(x_s | x_t) of Gaussian data is Gaussian; with its variance the sampler has no error but
    that of the last, noiseless step."""
    data, make_grid = family
    grid = make_grid(steps)
    fractions = np.zeros((steps, *data.mean.shape))
    for i, (t, s) in enumerate(zip(grid[:-2], grid[1:-1], strict=True)):
        (alpha_t, sigma_t), (alpha_s, sigma_s) = data.alpha_sigma(t), data.alpha_sigma(s)
        beta = sigma_t**2 - (alpha_t / alpha_s * sigma_s) ** 2
        _, prior = data.marginal(s)
        exact = 1 / (1 / prior + (alpha_t / alpha_s) ** 2 / beta)
        low = beta * (sigma_s / sigma_t) ** 2
        fractions[i] = np.log(exact / low) / np.log(beta / low)

    def denoise(x, level):
        i = jnp.argmin(abs(jnp.float32(grid[:-1]) - level[0]))
        var_frac = jnp.broadcast_to(jnp.float32(fractions)[i], x.shape)
        return data.denoise(x, level)._replace(var_frac=var_frac)

    keys, x = data.start(grid, 20_000)
    out = ancestral(denoise, data.process, grid, x, keys)
    alpha, _ = data.alpha_sigma(grid[-2])
    _, variance = data.marginal(grid[-2])
    data.assert_moments(out, data.mean, alpha**2 * data.variance**2 / variance)


def test_many_steps_give_the_exact_distribution_without_learned_variance(family):
    data, grid = family
    keys, x = data.start(grid(1000), 4000)
    out = ancestral(data.denoise, data.process, grid(1000), x, keys)
    data.assert_moments(out, data.mean, data.variance, slack=0.03)


@pytest.mark.parametrize("var_frac", [None, 0.0, 1.0, -3.0, 4.0])
def test_the_last_step_adds_no_noise(family, var_frac):
    data, make_grid = family
    grid = make_grid(10)[-2:]
    keys, x = data.start(grid, 8)

    def denoise(x, level):
        denoised = data.denoise(x, level)
        return denoised if var_frac is None else denoised._replace(var_frac=x * 0 + var_frac)

    x0 = data.denoise(x, jnp.full(8, grid[0], jnp.float32)).x0
    out = ancestral(denoise, data.process, grid, x, keys)
    np.testing.assert_allclose(out, x0, atol=1e-6)


@pytest.mark.parametrize("var_frac", [0.0, 0.3, 1.0])
def test_the_fraction_interpolates_the_log_variances(family, var_frac):
    data, make_grid = family
    grid = make_grid(20)[9:11]
    n = 20_000
    keys, x = data.start(grid, n)
    x = jnp.broadcast_to(x[:1], x.shape)  # one x, so that the spread is the step's own noise

    def denoise(x, level):
        return data.denoise(x, level)._replace(var_frac=jnp.full_like(x, var_frac))

    alpha_t, sigma_t = data.alpha_sigma(grid[0])
    alpha_s, sigma_s = data.alpha_sigma(grid[1])
    beta = sigma_t**2 - (alpha_t / alpha_s * sigma_s) ** 2
    step_variance = beta**var_frac * (beta * (sigma_s / sigma_t) ** 2) ** (1 - var_frac)
    out = np.asarray(ancestral(denoise, data.process, grid, x, keys), np.float64)
    np.testing.assert_allclose(out.var(0), step_variance, rtol=5 * np.sqrt(2 / n))

