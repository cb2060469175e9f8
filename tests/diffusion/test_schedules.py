"""Schedules against their definitions and published values."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cdt.diffusion import schedules


def test_linear_known_values():
    betas = schedules.linear_betas(1000)
    assert betas.dtype == np.float64 and betas.shape == (1000,)
    np.testing.assert_allclose(betas[[0, 999]], [1e-4, 0.02], rtol=1e-15)
    np.testing.assert_allclose(betas[400], 1e-4 + 400 / 999 * 0.0199, rtol=1e-14)
    # -log alpha_bar_T is the sum of b + b^2/2 + b^3/3 + ... over all betas b. Each sum of b^k is
    # the integral over the range plus half of both end values.
    low, high = 1e-4, 0.02
    powers = [
        999 * (high ** (k + 1) - low ** (k + 1)) / ((k + 1) * (high - low)) + (high**k + low**k) / 2
        for k in (1, 2, 3, 4)
    ]
    series = sum(s / k for k, s in enumerate(powers, start=1))
    np.testing.assert_allclose(np.prod(1 - betas), np.exp(-series), rtol=1e-5)
    np.testing.assert_allclose(np.prod(1 - betas), 4.036e-5, rtol=1e-3)


@pytest.mark.parametrize("num_levels", [50, 250, 4000])
def test_linear_ends_scale_with_the_number_of_levels(num_levels):
    betas = schedules.linear_betas(num_levels)
    np.testing.assert_allclose(betas[[0, -1]], np.array([0.1, 20.0]) / num_levels, rtol=1e-12)
    # The total noise does not depend on T: to first order log alpha_bar is -10.05.
    assert abs(betas.sum() - 10.05) < 1e-9


def test_cosine_is_its_formula_until_the_clip():
    num_levels = 1000
    alpha_bar = np.cumprod(1 - schedules.cosine_betas(num_levels))
    t = (np.arange(num_levels) + 1) / num_levels
    curve = np.cos((t + 0.008) / 1.008 * np.pi / 2) ** 2 / np.cos(0.008 / 1.008 * np.pi / 2) ** 2
    np.testing.assert_allclose(alpha_bar[:-1], curve[:-1], rtol=1e-9)
    assert schedules.cosine_betas(num_levels)[-1] == 0.999


@pytest.mark.parametrize("path", [schedules.linear_path(), schedules.gvp_path()])
def test_paths(path):
    t = jnp.linspace(0.0, 1.0, 101)
    alpha, sigma = path.alpha_sigma(t)
    assert (alpha[0], sigma[0], alpha[-1], sigma[-1]) == (1, 0, 0, 1)
    for value, derivative, of in zip((alpha, sigma), path.derivatives(t), (0, 1), strict=True):
        autodiff = jax.vmap(jax.grad(lambda s, of=of: path.alpha_sigma(s)[of]))(t)
        np.testing.assert_allclose(derivative, autodiff, atol=1e-6)
        assert value.dtype == derivative.dtype == jnp.float32


def test_gvp_is_variance_preserving():
    alpha, sigma = schedules.gvp_path().alpha_sigma(jnp.linspace(0.0, 1.0, 101))
    np.testing.assert_allclose(alpha**2 + sigma**2, 1, rtol=1e-6)


@pytest.mark.parametrize(
    "schedule, num_levels", [(schedules.linear_betas, 20), (schedules.cosine_betas, 1)]
)
def test_too_few_levels(schedule, num_levels):
    with pytest.raises(ValueError, match=f"has {num_levels} timesteps; it needs at least"):
        schedule(num_levels)
