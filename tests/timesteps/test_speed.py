"""SpeeD: frequencies and duals of the drawn timesteps, and the loss weight, against formulas."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from cdt.diffusion import schedules
from cdt.diffusion.process import ddpm, noise_variances
from cdt.timesteps.base import Feedback
from cdt.timesteps.speed import speed, speed_weight

TAU, K = 700, 5.0
# schedule -> m at T = 1000, from the authors' code.
CENTRES = {"linear": (schedules.linear_betas, 642), "cosine": (schedules.cosine_betas, 959)}


def sampler_of(schedule, num_levels=1000, tau=TAU, k=K):
    process = ddpm(schedule(num_levels))
    return process, speed(noise_variances(process), tau, k)


def timesteps(process, sampler, n, seed=0):
    draw = jax.jit(sampler.sample, static_argnums=2)(sampler.init(), jax.random.key(seed), n)
    assert draw.u.shape == (n,) and draw.u.dtype == jnp.float32
    np.testing.assert_array_equal(draw.weight, 1.0)  # the loss weight is not an importance weight
    t = np.asarray(process.level(draw.u))
    np.testing.assert_allclose(draw.u, process.u(t), rtol=1e-6)  # the middle of its interval
    assert t.min() >= 0 and t.max() < process.num_levels
    return t.astype(int)


def test_noise_variances():
    beta = schedules.linear_betas(1000)
    np.testing.assert_allclose(noise_variances(ddpm(beta)), 1 - np.cumprod(1 - beta), rtol=1e-12)


@pytest.mark.parametrize("name", CENTRES)
def test_drawn_timesteps_follow_p(name):
    process, sampler = sampler_of(CENTRES[name][0])
    n = 400_000
    drawn = timesteps(process, sampler, n)[: n // 2 + 1]
    p = np.where(np.arange(1000) < TAU, K, 1.0)
    counts = np.bincount(drawn, minlength=1000)
    assert stats.chisquare(counts, p / p.sum() * len(drawn)).pvalue > 0.01


@pytest.mark.parametrize("name", CENTRES)
@pytest.mark.parametrize("n", [1, 2, 7, 64, 4001])
def test_the_other_half_are_duals_in_the_same_order(name, n):
    schedule, m = CENTRES[name]
    t = timesteps(*sampler_of(schedule), n)
    drawn, duals = t[: n // 2 + 1], t[n // 2 + 1 :]
    expected = [m - s if s < m else s - m for s in drawn.tolist()][: n - n // 2 - 1]
    assert duals.tolist() == expected


def test_the_centre_is_where_the_noise_stops_growing():
    """For every number of timesteps m is at the same fraction of the schedule; recomputed here
    without np.gradient."""
    for num_levels in (200, 1000, 4000):
        sigma = np.sqrt(1 - np.cumprod(1 - schedules.linear_betas(num_levels)))
        steps = range(1, num_levels - 1)
        m = next(
            t + 1 for t in steps if (sigma[t + 1] - sigma[t - 1]) / 2 < 1e-4 * 1000 / num_levels
        )
        assert m == pytest.approx(0.642 * num_levels, abs=2)
        sampler = sampler_of(schedules.linear_betas, num_levels, tau=num_levels // 2)
        drawn, duals = np.split(timesteps(*sampler, 1001), [501])
        np.testing.assert_array_equal(duals, np.abs(drawn[:500] - m))


def test_it_learns_nothing():
    _, sampler = sampler_of(schedules.linear_betas)
    state = sampler.init()
    draw = sampler.sample(state, jax.random.key(0), 8)
    state = sampler.update(state, draw, Feedback(jnp.ones(8), jnp.ones(8)), jnp.int32(0))
    assert jax.tree.leaves(state) == [] and sampler.metrics(state) == {}


@pytest.mark.parametrize("schedule", [schedules.linear_betas, schedules.cosine_betas])
def test_the_weight_follows_the_growth_of_the_noise_below_tau(schedule):
    tau, lam = 700, 0.6
    alpha_bar = np.cumprod(1 - schedule(1000))
    g = np.empty(1000)  # central differences, one-sided at the ends
    g[1:-1] = (alpha_bar[:-2] - alpha_bar[2:]) / 2
    g[0], g[-1] = alpha_bar[0] - alpha_bar[1], alpha_bar[-2] - alpha_bar[-1]
    expected = (1 - lam) + (2 * lam - 1) * (g - g.min()) / (g.max() - g.min())
    expected[tau:] = 1.0
    weight = speed_weight(noise_variances(ddpm(schedule(1000))), tau, lam)
    np.testing.assert_allclose(weight(jnp.arange(1000.0)), expected, rtol=1e-6)
    assert np.argmax(expected[:tau]) == np.argmin(np.gradient(alpha_bar))


def test_bad_constants():
    variances = noise_variances(ddpm(schedules.linear_betas(1000)))
    for tau in (0, 1000):
        with pytest.raises(ValueError, match="between 1 and 999"):
            speed(variances, tau=tau)
    with pytest.raises(ValueError, match="k is 0; it must be positive"):
        speed(variances, k=0)
    with pytest.raises(ValueError, match="grows until the last"):
        speed(np.linspace(0.1, 1.0, 1000) ** 2)
    with pytest.raises(ValueError, match=r"lam is 1.1; it must lie in \[0, 1\]"):
        speed_weight(variances, lam=1.1)
