"""DDIM on Gaussian data: error against the exact ODE, order of convergence, stochastic case."""

import jax.numpy as jnp
import numpy as np
import pytest

from cdt.diffusion import process, schedules
from cdt.sampling import grids
from cdt.sampling.ancestral import ancestral
from cdt.sampling.ddim import ddim


def test_converges_to_the_ode_with_order_1(family):
    data, grid = family
    errors = []
    for n in (64, 128):
        noise, x = data.start(grid(n), 64)
        out = ddim(data.denoise, data.process, grid(n), x, noise)
        errors.append(abs(out - data.flow_map(x, grid(n)[0])).max())
    np.testing.assert_allclose(np.log2(errors[0] / errors[1]), 1, atol=0.06)
    assert errors[1] < 0.05


def test_eta_1_is_ancestral_sampling(family):
    data, grid = family
    noise, x = data.start(grid(20), 64)
    out = ddim(data.denoise, data.process, grid(20), x, noise, eta=1.0)
    expected = ancestral(data.denoise, data.process, grid(20), x, noise)
    np.testing.assert_allclose(out, expected, atol=2e-5)


@pytest.mark.parametrize("eta", [0.5, 1.0])
def test_moments_follow_equation_12(gaussian, eta):
    """The recursion of mean and variance, in alpha_bar and float64 (Song et al. 2021)."""
    betas = schedules.linear_betas(1000)
    data, grid = gaussian(process.ddpm(betas)), grids.strided_timesteps(1000, 20)
    alpha_bar = np.append(np.cumprod(1 - betas), 1.0)  # index -1 is the clean end
    mean, variance = data.marginal(grid[0])
    for t, s in zip(grid[:-1].astype(int), grid[1:].astype(int), strict=True):
        a, b = alpha_bar[t], alpha_bar[s]
        std = eta * np.sqrt((1 - b) / (1 - a)) * np.sqrt(1 - a / b)  # equation 16
        gain = np.sqrt(a) * data.variance / (a * data.variance + 1 - a)  # of E[x0 | x]
        noise_gain = (1 - np.sqrt(a) * gain) / np.sqrt(1 - a)  # of E[eps | x]
        scale = np.sqrt(b) * gain + np.sqrt(1 - b - std**2) * noise_gain
        mean, variance = np.sqrt(b) * data.mean, scale**2 * variance + std**2
    noise, x = data.start(grid, 20_000)
    out = ddim(data.denoise, data.process, grid, x, noise, eta=eta)
    data.assert_moments(out, mean, variance)


def test_bad_eta():
    p = process.ddpm(schedules.linear_betas(1000))
    with pytest.raises(ValueError, match=r"eta is 1.5; it must lie in \[0, 1\]"):
        ddim(None, p, grids.strided_timesteps(1000, 10), jnp.zeros((1, 1)), None, eta=1.5)
