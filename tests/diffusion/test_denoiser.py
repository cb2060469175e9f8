"""The denoiser: conversion of the output, clipping, variance fraction."""

import jax
import jax.numpy as jnp
import numpy as np

from cdt.diffusion import prediction, process, schedules
from cdt.diffusion.denoiser import make_denoiser

SHAPE = (8, 4, 4, 2)


def test_a_perfect_network_gives_x0_and_eps(family):
    p, predictions = family
    x0 = jax.random.uniform(jax.random.key(0), SHAPE, minval=-1)
    eps = jax.random.normal(jax.random.key(1), SHAPE)
    level = p.level(jnp.linspace(0.1, 0.9, 8))
    x = process.corrupt(p, x0, eps, level)
    for kind in predictions.values():
        output = prediction.target(kind, x0, eps, level)
        denoised = make_denoiser(lambda x, level, o=output: o, p, kind)(x, level)
        np.testing.assert_allclose(denoised.x0, x0, atol=1e-4)
        np.testing.assert_allclose(denoised.eps, eps, atol=1e-4)
        assert denoised.var_frac is None


def test_clipping_keeps_x_and_recomputes_eps(family):
    p, predictions = family
    x = 3 * jax.random.normal(jax.random.key(0), SHAPE)
    output = jax.random.normal(jax.random.key(1), SHAPE)
    level = p.level(jnp.linspace(0.1, 0.9, 8))
    for kind in predictions.values():
        free = make_denoiser(lambda x, level: output, p, kind)(x, level)
        clipped = make_denoiser(lambda x, level: output, p, kind, clip=True)(x, level)
        np.testing.assert_allclose(clipped.x0, np.clip(free.x0, -1, 1), atol=1e-6)
        assert jnp.any(abs(free.x0) > 1)
        again = process.corrupt(p, clipped.x0, clipped.eps, level)
        np.testing.assert_allclose(again, x, rtol=1e-5, atol=1e-5)


def test_variance_fraction():
    p = process.ddpm(schedules.linear_betas(1000))
    value = jnp.linspace(-1, 1, np.prod(SHAPE)).reshape(SHAPE)

    def network(x, level):
        return jnp.concatenate([jnp.zeros_like(x), value], -1)

    denoised = make_denoiser(network, p, prediction.eps_prediction(), learn_variance=True)(
        jnp.ones(SHAPE), jnp.full(8, 500.0)
    )
    np.testing.assert_allclose(denoised.var_frac, (value + 1) / 2)
    np.testing.assert_array_equal(denoised.eps, 0)
