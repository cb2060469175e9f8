"""Noise levels and noisy data against their definitions."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from cdt.diffusion import process, schedules

LARGEST_U = np.nextafter(np.float32(1), np.float32(0))


@pytest.mark.parametrize("num_levels", [21, 253, 1000, 4000])
def test_every_timestep_is_recovered_from_u(num_levels):
    p = process.ddpm(schedules.linear_betas(num_levels))
    t = jnp.arange(num_levels, dtype=jnp.float32)
    np.testing.assert_array_equal(p.level(p.u(t)), t)
    np.testing.assert_array_equal(p.u(p.level(p.u(t))), p.u(t))
    assert p.level(jnp.float32(0)) == 0 and p.level(LARGEST_U) == num_levels - 1


def test_uniform_u_gives_every_timestep_equally_often():
    p = process.ddpm(schedules.linear_betas(1000))
    u = (np.arange(10_000) + 0.5) / 10_000
    counts = np.bincount(np.asarray(p.level(jnp.float32(u)), int), minlength=1000)
    np.testing.assert_array_equal(counts, 10)


def test_edm_levels_are_the_log_normal_quantiles():
    p = process.edm(-1.2, 1.2)
    u = (np.arange(1000) + 0.5) / 1000
    log_sigma = np.log(np.asarray(p.level(jnp.float32(u)), np.float64))
    expected = stats.norm.ppf(u, -1.2, 1.2)
    np.testing.assert_allclose(log_sigma, expected, atol=1e-4)
    assert stats.kstest(log_sigma, stats.norm(-1.2, 1.2).cdf).statistic < 6e-4


@pytest.mark.parametrize("p", [process.edm(), process.flow(schedules.gvp_path())])
def test_continuous_levels_are_recovered_from_u(p):
    u = (jnp.arange(1000) + 0.5) / 1000
    np.testing.assert_allclose(p.u(p.level(u)), u, atol=1e-6)


def test_ends_of_u_are_finite(family):
    p, _ = family
    ends = jnp.array([0, LARGEST_U])
    level = p.level(ends)
    alpha, sigma = p.alpha_sigma(level)
    assert jnp.all(jnp.isfinite(level)) and jnp.all(jnp.isfinite(alpha + sigma))
    assert p.name == "flow" or jnp.all(sigma > 0)


def test_edm_u_stays_in_range_at_any_sigma():
    u = process.edm(-1.2, 1.2).u(jnp.float32([1e-6, 0.002, 80.0, 1e6]))
    assert jnp.all((u > 0) & (u < 1)) and jnp.all(jnp.diff(u) > 0)


def test_clean_end(family):
    p, _ = family
    clean = jnp.float32(-1 if p.name == "ddpm" else 0)
    assert p.alpha_sigma(clean) == (1, 0)


def test_ddpm_tables_are_the_cumulative_products():
    for betas in (schedules.linear_betas(1000), schedules.cosine_betas(1000)):
        p = process.ddpm(betas)
        alpha, sigma = p.alpha_sigma(jnp.arange(1000, dtype=jnp.float32))
        alpha_bar = np.cumprod(1 - betas)
        np.testing.assert_allclose(alpha, np.sqrt(alpha_bar), rtol=1e-6)
        np.testing.assert_allclose(sigma, np.sqrt(1 - alpha_bar), rtol=1e-6)
        np.testing.assert_allclose(alpha**2 + sigma**2, 1, rtol=5e-7)


def test_log_snr_is_that_of_the_level(family):
    p, _ = family
    u = (np.arange(1000) + 0.5) / 1000
    alpha, sigma = (np.asarray(c, np.float64) for c in p.alpha_sigma(p.level(jnp.float32(u))))
    assert p.log_snr(u).dtype == np.float64
    np.testing.assert_allclose(p.log_snr(u), 2 * np.log(alpha / sigma), atol=2e-3)
    assert np.all(np.diff(p.log_snr(u)) < 0)


def test_time_input():
    levels = jnp.float32([0.25, 0.5])
    np.testing.assert_allclose(process.edm().time_input(levels), np.log([0.25, 0.5]) / 4, 1e-6)
    np.testing.assert_array_equal(process.flow(schedules.linear_path()).time_input(levels), levels)
    t = jnp.float32([0, 7, 999])
    np.testing.assert_array_equal(process.ddpm(schedules.linear_betas(1000)).time_input(t), t)


def test_corrupt_has_the_stated_moments(family):
    p, _ = family
    level = p.level(jnp.linspace(0.1, 0.9, 8))
    x0 = jnp.full((8, 100, 100, 1), 0.7)
    x = process.corrupt(p, x0, jax.random.normal(jax.random.key(0), x0.shape), level)
    alpha, sigma = p.alpha_sigma(level)
    se = np.asarray(sigma) / 100
    np.testing.assert_array_less(abs(x.mean((1, 2, 3)) - 0.7 * alpha), 4 * se)
    np.testing.assert_allclose(x.std((1, 2, 3)), sigma, rtol=0.04)


@pytest.mark.parametrize("betas", [[0.1, 1.0], [0.0, 0.5], [[0.1]]])
def test_bad_betas(betas):
    with pytest.raises(ValueError, match="strictly between 0 and 1"):
        process.ddpm(np.array(betas))


def test_bad_p_std():
    with pytest.raises(ValueError, match="p_std is 0; it must be positive"):
        process.edm(-1.2, 0)
