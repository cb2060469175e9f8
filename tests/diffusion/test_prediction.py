"""Predictions against the formulas of the papers, and conversions between them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cdt.diffusion import prediction, process, schedules

SHAPE = (8, 4, 4, 2)


@pytest.fixture
def pair():
    x0 = jnp.clip(jax.random.normal(jax.random.key(0), SHAPE), -1, 1)
    return x0, jax.random.normal(jax.random.key(1), SHAPE)


def levels_inside(p):
    return p.level(jnp.linspace(0.1, 0.9, 8))


def test_targets_convert_back_to_x0_and_eps(family, pair):
    p, predictions = family
    x0, eps = pair
    level = levels_inside(p)
    x = process.corrupt(p, x0, eps, level)
    for name, kind in predictions.items():
        output = prediction.target(kind, x0, eps, level)
        x0_back, eps_back = prediction.to_x0_eps(p, kind, output, x, level)
        np.testing.assert_allclose(x0_back, x0, atol=2e-4, err_msg=name)
        np.testing.assert_allclose(eps_back, eps, atol=2e-4, err_msg=name)


@pytest.mark.parametrize("first", ["eps", "x0", "v"])
def test_conversions_cycle(first):
    """Convert an arbitrary (wrong) output to every other prediction and back."""
    p = process.ddpm(schedules.linear_betas(1000))
    kinds = {
        "eps": prediction.eps_prediction(),
        "x0": prediction.x0_prediction(),
        "v": prediction.v_prediction(p),
    }
    level = levels_inside(p)
    x = jax.random.normal(jax.random.key(2), SHAPE)
    output = start = jax.random.normal(jax.random.key(3), SHAPE)
    order = [first] + [k for k in kinds if k != first] + [first]
    for now, following in zip(order, order[1:], strict=False):
        x0, eps = prediction.to_x0_eps(p, kinds[now], output, x, level)
        np.testing.assert_allclose(process.corrupt(p, x0, eps, level), x, atol=1e-4)
        output = prediction.target(kinds[following], x0, eps, level)
    np.testing.assert_allclose(output, start, atol=1e-3)


def test_v_is_the_formula_of_the_paper(pair):
    x0, eps = pair
    p = process.ddpm(schedules.cosine_betas(1000))
    level = levels_inside(p)
    alpha, sigma = (c[:, None, None, None] for c in p.alpha_sigma(level))
    v = prediction.target(prediction.v_prediction(p), x0, eps, level)
    np.testing.assert_allclose(v, alpha * eps - sigma * x0, atol=1e-6)


@pytest.mark.parametrize("path", [schedules.linear_path(), schedules.gvp_path()])
def test_velocity_is_the_derivative_of_the_path(path, pair):
    p = process.flow(path)
    x0, eps = pair
    level = levels_inside(p)
    _, derivative = jax.jvp(
        lambda t: process.corrupt(p, x0, eps, t), (level,), (jnp.ones_like(level),)
    )
    velocity = prediction.target(prediction.velocity_prediction(p), x0, eps, level)
    np.testing.assert_allclose(velocity, derivative, atol=1e-5)


@pytest.mark.parametrize("sd", [0.5, 1.3])
def test_edm_is_the_preconditioning_of_the_paper(sd):
    """c_skip, c_out, c_in of Karras et al. 2022, table 1, in float64."""
    p, kind = process.edm(), prediction.edm_prediction(sd)
    s = np.array([0.002, 0.05, 0.5, 2.0, 80.0])
    c_skip = sd**2 / (s**2 + sd**2)
    c_out = s * sd / np.sqrt(s**2 + sd**2)
    np.testing.assert_allclose(kind.c_in(jnp.float32(s)), 1 / np.sqrt(s**2 + sd**2), rtol=1e-6)

    rng = np.random.default_rng(0)
    x0, eps, f = rng.normal(size=(3, 5, 2, 2, 1))
    column = (slice(None), None, None, None)
    x = x0 + s[column] * eps
    target = prediction.target(kind, jnp.float32(x0), jnp.float32(eps), jnp.float32(s))
    np.testing.assert_allclose(target, (x0 - c_skip[column] * x) / c_out[column], rtol=1e-4)

    denoised, noise = prediction.to_x0_eps(p, kind, jnp.float32(f), jnp.float32(x), jnp.float32(s))
    d = c_skip[column] * x + c_out[column] * f
    np.testing.assert_allclose(denoised, d, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(noise, (x - d) / s[column], rtol=1e-3, atol=1e-4)


def test_c_in_is_one_except_for_edm(family):
    p, predictions = family
    for name, kind in predictions.items():
        if name != "edm":
            np.testing.assert_array_equal(kind.c_in(levels_inside(p)), 1)


def test_split_output():
    output = jnp.arange(6.0, dtype=jnp.bfloat16).reshape(1, 1, 1, 6)
    mean, variance = prediction.split_output(output, 3, learn_variance=True)
    assert mean.dtype == variance.dtype == jnp.float32
    np.testing.assert_array_equal(mean.ravel(), [0, 1, 2])
    np.testing.assert_array_equal(variance.ravel(), [3, 4, 5])
    assert prediction.split_output(output, 6, learn_variance=False)[1] is None
    with pytest.raises(ValueError, match="returns 6 channels; it must return 3"):
        prediction.split_output(output, 3, learn_variance=False)


def test_bad_predictions():
    with pytest.raises(ValueError, match="'velocity' for the family 'ddpm', which is discrete"):
        prediction.velocity_prediction(process.ddpm(schedules.linear_betas(1000)))
    with pytest.raises(ValueError, match="sigma_data is 0; it must be positive"):
        prediction.edm_prediction(0)
