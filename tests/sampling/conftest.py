"""Gaussian data, whose denoiser has a closed form, in every noise family."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cdt.diffusion import process, schedules
from cdt.diffusion.denoiser import Denoised
from cdt.sampling import grids
from cdt.sampling.noise import START, keyed_noise

SHAPE = (2, 2, 1)


class Gaussian(NamedTuple):
    """Data N(mean, variance) with independent pixels, for one family. Moments are float64."""

    process: process.Process
    mean: np.ndarray = np.array([0.5, -0.3, 0.0, 0.8]).reshape(SHAPE)
    variance: np.ndarray = np.array([0.04, 0.25, 0.6, 0.9]).reshape(SHAPE)

    def alpha_sigma(self, level):
        return (np.float64(c) for c in self.process.alpha_sigma(jnp.float32(level)))

    def marginal(self, level):
        """Return the mean and variance of x at a level."""
        alpha, sigma = self.alpha_sigma(level)
        return alpha * self.mean, alpha**2 * self.variance + sigma**2

    def denoise(self, x, level):
        """Return E[x0 | x] and the corresponding eps."""
        alpha, sigma = (jnp.reshape(c, (-1, 1, 1, 1)) for c in self.process.alpha_sigma(level))
        mean, variance = jnp.float32(self.mean), jnp.float32(self.variance)
        gap = (x - alpha * mean) / (alpha**2 * variance + sigma**2)
        return Denoised(mean + alpha * variance * gap, sigma * gap, None)

    def start(self, grid, n):
        """Return the noise of n examples, and their x drawn from the marginal at grid[0]."""
        noise = keyed_noise(jax.random.split(jax.random.key(7), n), SHAPE)
        mean, variance = self.marginal(grid[0])
        return noise, jnp.float32(mean) + jnp.float32(np.sqrt(variance)) * noise(START)

    def flow_map(self, x, level):
        """Return the exact solution of the probability-flow ODE at the clean end, from x."""
        mean, variance = self.marginal(level)
        return self.mean + np.sqrt(self.variance / variance) * (np.asarray(x, np.float64) - mean)

    def assert_moments(self, x, mean, variance, slack=0.0):
        """Assert the moments of samples [B, ...] to 5 standard errors plus a relative tolerance."""
        n = len(x)
        x = np.asarray(x, np.float64)
        error = abs(x.mean(0) - mean) / np.sqrt(variance)
        np.testing.assert_array_less(error, 5 / np.sqrt(n) + slack)
        ratio = abs(x.var(0, ddof=1) / variance - 1)
        np.testing.assert_array_less(ratio, 5 * np.sqrt(2 / n) + slack)
        flat = ((x - x.mean(0)) / x.std(0)).reshape(n, -1)
        correlation = flat.T @ flat / n - np.eye(flat.shape[1])
        np.testing.assert_array_less(abs(correlation), 5 / np.sqrt(n))


FAMILIES = {
    "ddpm": (
        process.ddpm(schedules.linear_betas(1000)),
        lambda n: grids.rounded_timesteps(1000, n),
    ),
    "edm": (process.edm(), grids.karras_sigmas),
    "flow-linear": (process.flow(schedules.linear_path()), grids.uniform_times),
    "flow-gvp": (process.flow(schedules.gvp_path()), grids.uniform_times),
}


@pytest.fixture
def gaussian():
    """Return the class, for a test with its own noise family."""
    return Gaussian


@pytest.fixture(params=FAMILIES)
def family(request):
    """Yield (Gaussian data, function n -> grid of n steps) for every family."""
    p, grid = FAMILIES[request.param]
    return Gaussian(p), grid


@pytest.fixture(params=["edm", "flow-linear", "flow-gvp"])
def continuous(request):
    """Yield the same as `family` for the continuous families."""
    p, grid = FAMILIES[request.param]
    return Gaussian(p), grid
