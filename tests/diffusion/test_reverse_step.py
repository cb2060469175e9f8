"""The posterior and the reverse step against the formulas of the papers, in float64."""

import jax.numpy as jnp
import numpy as np

from cdt.diffusion.process import ddpm
from cdt.diffusion.reverse_step import posterior, reverse_log_variance, reverse_mean
from cdt.diffusion.schedules import linear_betas

BETAS = linear_betas(1000)
ALPHA_BAR = np.cumprod(1 - BETAS)
T = np.array([1, 2, 40, 500, 999])


def test_posterior_is_bayes_rule(family):
    """q(x_s | x_t, x0) from the joint Gaussian of (x_s, x_t) given x0, in float64."""
    p, _ = family
    pairs = {
        "ddpm": [(999, 998), (500, 499), (500, 480), (10, 9), (1, 0)],
        "edm": [(80, 71), (1, 0.9), (0.003, 0.002)],
        "flow": [(1, 0.98), (0.5, 0.3), (0.02, 0.01)],
    }[p.name]
    for pair in pairs:
        q = posterior(p, *jnp.float32(pair))
        (alpha_t, sigma_t), (alpha_s, sigma_s) = (
            [np.float64(c) for c in p.alpha_sigma(jnp.float32(level))] for level in pair
        )
        cov = alpha_t / alpha_s * sigma_s**2  # of x_t and x_s, given x0
        gain = cov / sigma_t**2
        np.testing.assert_allclose(q.x_scale, gain, rtol=1e-5)
        np.testing.assert_allclose(q.x0_scale, alpha_s - gain * alpha_t, rtol=1e-3, atol=1e-7)
        np.testing.assert_allclose(q.variance, sigma_s**2 - gain * cov, rtol=1e-3)


def test_posterior_of_consecutive_timesteps_is_that_of_ddpm():
    """Ho et al. 2020, equations 6 and 7, and beta_t itself."""
    betas = linear_betas(1000)
    alpha_bar = np.cumprod(1 - betas)
    t = np.arange(1, 1000)
    q = posterior(ddpm(betas), jnp.arange(1.0, 1000.0), jnp.arange(0.0, 999.0))
    before = alpha_bar[t - 1]
    np.testing.assert_allclose(q.beta, betas[t], rtol=1e-4)
    variance = (1 - before) / (1 - alpha_bar[t]) * betas[t]
    np.testing.assert_allclose(q.variance, variance, rtol=1e-4)
    x0_scale = np.sqrt(before) * betas[t] / (1 - alpha_bar[t])
    np.testing.assert_allclose(q.x0_scale, x0_scale, rtol=1e-4)
    x_scale = np.sqrt(1 - betas[t]) * (1 - before) / (1 - alpha_bar[t])
    np.testing.assert_allclose(q.x_scale, x_scale, rtol=1e-5)


def test_posterior_towards_the_clean_end(family):
    p, _ = family
    clean = -1 if p.name == "ddpm" else 0
    noisy = 0 if p.name == "ddpm" else 0.01
    q = posterior(p, jnp.float32(noisy), jnp.float32(clean))
    np.testing.assert_allclose([q.x_scale, q.x0_scale, q.variance], [0, 1, 0], atol=1e-7)


def test_reverse_mean_is_that_of_the_predicted_noise():
    """Ho et al. 2020, equation 11: (x - beta / sqrt(1 - abar) eps) / sqrt(alpha)."""
    x, eps = np.random.default_rng(0).normal(size=(2, len(T), 3, 3, 2))
    beta, alpha_bar = (c[T].reshape(-1, 1, 1, 1) for c in (BETAS, ALPHA_BAR))
    x0 = (x - np.sqrt(1 - alpha_bar) * eps) / np.sqrt(alpha_bar)
    expected = (x - beta / np.sqrt(1 - alpha_bar) * eps) / np.sqrt(1 - beta)
    q = posterior(ddpm(BETAS), jnp.float32(T), jnp.float32(T - 1))
    found = reverse_mean(q, jnp.float32(x), jnp.float32(x0))
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)


def test_reverse_log_variance_interpolates():
    """Nichol & Dhariwal 2021, equation 15; also for fractions outside [0, 1], scalar levels."""
    frac = np.linspace(-0.5, 1.5, len(T) * 4).reshape(len(T), 4)
    low = (1 - ALPHA_BAR[T - 1]) / (1 - ALPHA_BAR[T]) * BETAS[T]
    expected = frac * np.log(BETAS[T])[:, None] + (1 - frac) * np.log(low)[:, None]
    q = posterior(ddpm(BETAS), jnp.float32(T), jnp.float32(T - 1))
    np.testing.assert_allclose(reverse_log_variance(q, jnp.float32(frac)), expected, rtol=1e-4)
    one = posterior(ddpm(BETAS), jnp.float32(T[2]), jnp.float32(T[2] - 1))
    found = reverse_log_variance(one, jnp.float32(frac[2]))
    np.testing.assert_allclose(found, expected[2], rtol=1e-4)


def test_reverse_log_variance_is_finite_at_the_clean_end():
    q = posterior(ddpm(BETAS), jnp.float32(0), jnp.float32(-1))
    assert jnp.all(jnp.isfinite(reverse_log_variance(q, jnp.float32([0.0, 0.5, 1.0]))))
