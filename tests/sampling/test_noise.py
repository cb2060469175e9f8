"""Noise of samplers: example i depends on its key only, and all noise is that of `noise`."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cdt.diffusion import process, schedules
from cdt.sampling import grids
from cdt.sampling.ancestral import ancestral
from cdt.sampling.ddim import ddim
from cdt.sampling.euler_maruyama import euler_maruyama
from cdt.sampling.heun import heun
from cdt.sampling.noise import START, initial_noise, keyed_noise

DDPM = process.ddpm(schedules.linear_betas(1000))
FLOW = process.flow(schedules.gvp_path())
STOCHASTIC = [
    (DDPM, grids.strided_timesteps(1000, 10), ancestral),
    (FLOW, grids.uniform_times(10), partial(ddim, eta=0.7)),
    (FLOW, grids.uniform_times_to(10, 0.04), euler_maruyama),
    (process.edm(), grids.karras_sigmas(10), partial(heun, S_churn=4.0)),
]


def test_initial_noise_has_the_scale_of_the_first_level(family):
    data, grid = family
    noise = keyed_noise(jax.random.split(jax.random.key(0), 20_000), (2, 2, 1))
    x = initial_noise(data.process, grid(10), noise)
    _, sigma = data.alpha_sigma(grid(10)[0])
    assert x.dtype == jnp.float32 and x.shape == (20_000, 2, 2, 1)
    data.assert_moments(x / np.float32(sigma), np.zeros((2, 2, 1)), np.ones((2, 2, 1)))
    again = initial_noise(data.process, grid(50), noise)
    np.testing.assert_array_equal(x, again)  # a finer grid starts from the same noise


def test_draws_of_steps_and_start_are_independent():
    noise = keyed_noise(jax.random.split(jax.random.key(0), 20_000), (1,))
    draws = np.concatenate([noise(START), noise(0), noise(1)], axis=1)
    np.testing.assert_allclose(np.corrcoef(draws.T), np.eye(3), atol=0.04)


@pytest.mark.parametrize("legacy", [False, True])
def test_draws_do_not_depend_on_the_batch(legacy):
    key = jax.random.PRNGKey(3) if legacy else jax.random.key(3)
    keys, order = jax.random.split(key, 6), jnp.array([4, 1])
    whole, some = (keyed_noise(k, (3, 3, 1))(2) for k in (keys, keys[order]))
    np.testing.assert_array_equal(some, whole[order])


@pytest.mark.parametrize("p, grid, sampler", STOCHASTIC)
def test_samples_do_not_depend_on_the_batch(gaussian, p, grid, sampler):
    keys = jax.random.split(jax.random.key(5), 6)

    def sample(keys):
        noise = keyed_noise(keys, (2, 2, 1))
        return sampler(gaussian(p).denoise, p, grid, initial_noise(p, grid, noise), noise)

    whole = jax.jit(sample)(keys)
    order = jnp.array([5, 2, 0])
    np.testing.assert_allclose(jax.jit(sample)(keys[order]), whole[order], rtol=1e-4, atol=1e-4)
    assert jnp.abs(whole[0] - whole[1]).max() > 1e-2


@pytest.mark.parametrize("p, grid, sampler", STOCHASTIC)
def test_a_sampler_takes_all_its_noise_from_the_function(gaussian, p, grid, sampler):
    """Noise for one example in one step changes this example only."""
    data = gaussian(p)
    x = jnp.broadcast_to(data.start(grid, 1)[1], (3, 2, 2, 1))
    one_example = jnp.zeros_like(x).at[1].set(1.0)

    @jax.jit
    def sample(step):
        return sampler(data.denoise, p, grid, x, lambda i: jnp.where(i == step, one_example, 0.0))

    without = sample(START)
    assert jnp.all(without == without[0])
    for step in range(len(grid) - 2):  # the last step can add no noise
        out = sample(step)
        assert jnp.all(out[::2] == without[::2])
        assert jnp.abs(out[1] - without[1]).min() > 1e-5
