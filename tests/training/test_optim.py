"""Schedules, optimizer and EMAs against their formulas."""

import jax.numpy as jnp
import numpy as np
import optax
import pytest

from cdt.training import optim


def values(schedule, steps):
    return np.array([float(schedule(jnp.int32(s))) for s in steps])


@pytest.mark.parametrize(
    ("name", "after"),
    [
        ("constant", lambda s: np.ones_like(s)),
        ("cosine", lambda s: 0.5 * (1 + np.cos(np.pi * (s - 10) / 90))),
        ("rsqrt", lambda s: np.sqrt(10 / s)),
    ],
)
def test_schedules_in_closed_form(name, after):
    schedule = optim.learning_rate(name, 2.0, 10, 100)
    np.testing.assert_allclose(values(schedule, range(10)), 2.0 * np.arange(10) / 10, rtol=1e-6)
    steps = np.arange(10, 100, dtype=float)
    found = values(schedule, range(10, 100))
    np.testing.assert_allclose(found, 2.0 * after(steps), rtol=1e-5, atol=1e-6)


def test_schedule_without_warm_up_starts_at_its_peak():
    assert values(optim.learning_rate("constant", 0.5, 0, 10), [0, 9]).tolist() == [0.5, 0.5]
    assert values(optim.learning_rate("cosine", 0.5, 0, 10), [0])[0] == 0.5


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("linear", 1.0, 0, 10), "must be one of"),
        (("rsqrt", 1.0, 0, 10), "needs a warm-up"),
        (("constant", 1.0, 10, 10), "not shorter"),
    ],
)
def test_wrong_schedules(arguments, words):
    with pytest.raises(ValueError, match=words):
        optim.learning_rate(*arguments)


def test_adamw_with_clipping_against_numpy():
    tx = optim.make_optimizer("adamw", lambda s: 0.1, 0.9, 0.99, 1e-8, 0.01, clip_norm=1.0)
    params = {"w": jnp.array([1.0, -2.0])}
    state, m, v, w = tx.init(params), np.zeros(2), np.zeros(2), np.array([1.0, -2.0])
    for t in range(1, 5):
        gradient = np.array([3.0, 4.0]) * t
        updates, state = tx.update({"w": jnp.asarray(gradient)}, state, params)
        params = optax.apply_updates(params, updates)
        clipped = gradient / np.linalg.norm(gradient)
        m, v = 0.9 * m + 0.1 * clipped, 0.99 * v + 0.01 * clipped**2
        w = w - 0.1 * (m / (1 - 0.9**t) / (np.sqrt(v / (1 - 0.99**t)) + 1e-8) + 0.01 * w)
        np.testing.assert_allclose(params["w"], w, rtol=1e-5)


def test_adam_has_no_weight_decay():
    with pytest.raises(ValueError, match="set it to 0, or use"):
        optim.make_optimizer("adam", lambda s: 0.1, 0.9, 0.99, 1e-8, 0.01, None)
    with pytest.raises(ValueError, match="must be adam or adamw"):
        optim.make_optimizer("sgd", lambda s: 0.1, 0.9, 0.99, 1e-8, 0.0, None)


def test_ema_against_numpy():
    averages = optim.ema({"a": optim.fixed_decay(0.9), "b": optim.half_life(100.0, 10)})
    params = {"w": jnp.array([1.0])}
    state = averages.init(params)
    a = b = 1.0
    for step in range(80):
        value = np.sin(step)
        state = averages.update(state, {"w": jnp.array([value])}, jnp.int32(step))
        a = 0.9 * a + 0.1 * value
        beta = 0.5 ** (10 / min(100.0, 0.05 * (step + 1) * 10))
        b = beta * b + (1 - beta) * value
    np.testing.assert_allclose(state["a"]["w"], [a], rtol=1e-5)
    np.testing.assert_allclose(state["b"]["w"], [b], rtol=1e-5)


def test_ema_starts_as_a_copy_with_its_own_buffers():
    params = {"w": jnp.ones(3)}
    state = optim.ema({"a": optim.fixed_decay(0.9)}).init(params)
    assert state["a"]["w"] is not params["w"]
    params["w"].delete()
    np.testing.assert_array_equal(state["a"]["w"], np.ones(3))
