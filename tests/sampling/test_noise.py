"""Example i depends on its own key alone."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cdt.diffusion import process, schedules
from cdt.sampling import grids
from cdt.sampling.ancestral import ancestral
from cdt.sampling.ddim import ddim
from cdt.sampling.heun import heun
from cdt.sampling.noise import initial_noise, step_noise


def test_initial_noise_has_the_scale_of_the_first_level(family):
    data, grid = family
    keys = jax.random.split(jax.random.key(0), 20_000)
    x = initial_noise(data.process, grid(10), keys, (2, 2, 1))
    _, sigma = data.alpha_sigma(grid(10)[0])
    assert x.dtype == jnp.float32 and x.shape == (20_000, 2, 2, 1)
    data.assert_moments(x / np.float32(sigma), np.zeros((2, 2, 1)), np.ones((2, 2, 1)))
    again = initial_noise(data.process, grid(50), keys, (2, 2, 1))
    np.testing.assert_array_equal(x, again)  # a finer grid starts from the same noise


def test_draws_of_steps_and_start_are_independent():
    keys = jax.random.split(jax.random.key(0), 20_000)
    start = initial_noise(process.flow(schedules.linear_path()), grids.uniform(10), keys, (1,))
    draws = np.concatenate([start, step_noise(keys, 0, (1,)), step_noise(keys, 1, (1,))], 1)
    np.testing.assert_allclose(np.corrcoef(draws.T), np.eye(3), atol=0.04)


@pytest.mark.parametrize("legacy", [False, True])
def test_draws_do_not_depend_on_the_batch(legacy):
    key = jax.random.PRNGKey(3) if legacy else jax.random.key(3)
    keys = jax.random.split(key, 6)
    whole = step_noise(keys, 2, (3, 3, 1))
    order = jnp.array([4, 1])
    np.testing.assert_array_equal(step_noise(keys[order], 2, (3, 3, 1)), whole[order])


@pytest.mark.parametrize(
    "p, grid, sampler",
    [
        (process.ddpm(schedules.linear(1000)), grids.strided(1000, 10), ancestral),
        (process.flow(schedules.gvp_path()), grids.uniform(10), partial(ddim, eta=0.7)),
        (process.edm(), grids.karras(10), partial(heun, S_churn=4.0)),
    ],
)
def test_samples_do_not_depend_on_the_batch(gaussian, p, grid, sampler):
    keys = jax.random.split(jax.random.key(5), 6)

    def sample(keys):
        x = initial_noise(p, grid, keys, (2, 2, 1))
        return sampler(gaussian(p).denoise, p, grid, x, keys)

    whole = jax.jit(sample)(keys)
    order = jnp.array([5, 2, 0])
    np.testing.assert_allclose(jax.jit(sample)(keys[order]), whole[order], rtol=1e-4, atol=1e-4)
    assert jnp.abs(whole[0] - whole[1]).max() > 1e-2
