"""The train step: update, statistics, bad steps, accumulation, dropped conditions, devices."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from cdt.curriculum.clusters import edge_table, uniform_edges
from cdt.curriculum.pacing import patience
from cdt.curriculum.sampler import curriculum
from cdt.devices import sharding
from cdt.diffusion.pixels import to_float
from cdt.timesteps.independent import independent
from cdt.timesteps.uniform import uniform
from cdt.training import optim
from cdt.training.step import StepOptions, make_init, make_train_step

EDGES = edge_table(uniform_edges(4), None)
EMA = optim.ema({"half": optim.fixed_decay(0.5)})


def init_params(key):
    return {"w": 0.1 * jax.random.normal(key, (8, 8)), "b": jnp.zeros(8), "c": jnp.zeros(11)}


def example_loss(params, x0, eps, u, condition, key):
    """Return the loss of a small network that depends on image, noise, level and label."""
    x = (1 - u)[:, None] * x0.reshape(len(u), -1) + u[:, None] * eps.reshape(len(u), -1)
    error = jnp.tanh(x @ params["w"]) + params["b"] + params["c"][condition["label"]][:, None]
    error -= eps.reshape(len(u), -1)
    return jnp.mean(error**2, axis=1), jnp.sum(error**2, axis=1)


def batch_at(step, n=32):
    rng = np.random.default_rng(step)
    return {
        "image": jnp.asarray(rng.integers(0, 256, (n, 2, 4, 1)), jnp.uint8),
        "label": jnp.asarray(rng.integers(0, 10, n), jnp.int32),
    }


def make(loss=example_loss, tau=3, plain=False, **options):
    tx = optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(1e-2))
    timesteps = independent(uniform()) if plain else curriculum(uniform(), EDGES, patience(tau, 4))
    options = {"null": {"label": 10}, "log_every": 5, "max_bad_steps": 3} | options
    step = make_train_step(loss, tx, EMA, timesteps, EDGES, 7, StepOptions(**options))
    state = make_init(init_params, tx, EMA, timesteps, 4, 4)(jax.random.key(0))
    return jax.jit(step), state


def same(a, b):
    jax.tree.map(np.testing.assert_array_equal, a, b)


def test_the_loss_falls_and_the_state_advances():
    step, state = make()
    losses = []
    for i in range(60):
        state, metrics = step(state, batch_at(i))
        losses.append(float(metrics["loss"]))
    assert np.mean(losses[-10:]) < np.mean(losses[:10])
    assert state.step == 60 and metrics["bad_steps"] == 0
    assert metrics["stage"] == 4 and metrics["stage_lengths"].sum() == 60


def test_update_against_separate_operations():
    """One step by hand: the same draws, the gradient, optax and the EMA."""
    step, state = make(plain=True)
    batch = batch_at(0)
    key = jax.random.fold_in(jax.random.key(7), 0)
    u = jax.random.uniform(jax.random.fold_in(key, 0), (32,))
    eps = jax.random.normal(jax.random.fold_in(key, 1), (32, 2, 4, 1))

    x0 = to_float(batch["image"])

    def mean_loss(params):
        return example_loss(params, x0, eps, u, batch, None)[0].mean()

    loss, grads = jax.value_and_grad(mean_loss)(state.params)
    tx = optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(1e-2))
    updates, _ = tx.update(grads, tx.init(state.params), state.params)
    params = optax.apply_updates(state.params, updates)
    new, metrics = step(state, batch)
    np.testing.assert_allclose(metrics["loss"], loss, rtol=1e-6)
    np.testing.assert_allclose(metrics["grad_norm"], optax.tree.norm(grads), rtol=1e-5)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7),
                 new.params, params)  # fmt: skip
    jax.tree.map(
        lambda e, a, b: np.testing.assert_allclose(e, (a + b) / 2, rtol=1e-5, atol=1e-7),
        new.ema["half"], state.params, params,
    )  # fmt: skip


def test_cluster_losses_are_means_over_the_window():
    seen = []

    def spy(params, x0, eps, u, condition, key):
        loss = example_loss(params, x0, eps, u, condition, key)
        jax.debug.callback(lambda u, loss: seen.append((u, loss)), u, loss[0], ordered=True)
        return loss

    step, state = make(spy, plain=True)
    for i in range(8):  # windows of 5 steps; the second has three steps
        state, metrics = step(state, batch_at(i))
    jax.effects_barrier()
    u, loss = (np.concatenate(x) for x in zip(*seen[5:], strict=True))
    for i in range(4):
        member = (u >= i / 4) & (u < (i + 1) / 4)
        np.testing.assert_allclose(metrics["cluster_loss"][i], loss[member].mean(), rtol=1e-5)
    assert state.clusters.count.sum() == 3 * 32


def bad_at(when):
    """Return (loss, batch) with a NaN loss (99) or an infinite gradient (98) at the given steps."""

    def loss(params, x0, eps, u, condition, key):
        value, error = example_loss(params, x0, eps, u, condition, key)
        # The marker is a label, the only part of a batch that reaches the loss unchanged.
        marker = jnp.max(condition["label"])
        value = jnp.where(marker == 99, jnp.nan, value)
        # sqrt(0) has a finite value and an infinite gradient; in other steps it is sqrt(1).
        zero = params["b"][0] - jax.lax.stop_gradient(params["b"][0])
        return value + jnp.sqrt(jnp.where(marker == 98, zero, 1.0)), error

    def batch(step):
        clean = batch_at(step)
        if step in when:
            clean["label"] = clean["label"].at[0].set(when[step])
        return clean

    return loss, batch


@pytest.mark.parametrize("marker", [99, 98])
def test_a_bad_step_changes_only_step_and_counters(marker):
    loss, batch = bad_at({4: marker, 5: marker})
    step, state = make(loss)
    for i in range(8):
        new, metrics = step(state, batch(i))
        if i in (4, 5):
            assert not np.isfinite(metrics["loss"]) or not np.isfinite(metrics["grad_norm"])
            for name in ("params", "ema", "opt_state", "timesteps"):
                same(getattr(new, name), getattr(state, name))
            assert new.step == state.step + 1
            assert new.bad.in_a_row == i - 3 and new.bad.total == i - 3
            same(metrics["recent_bad_steps"][: i - 3], np.arange(4, i + 1)[::-1])
        state = new
    assert state.bad.in_a_row == 0 and state.bad.total == 2
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(state.params))
    assert np.isfinite(metrics["cluster_loss"][-1])


def test_after_k_bad_steps_in_a_row_the_state_is_frozen():
    loss, batch = bad_at({i: 99 for i in range(2, 5)})
    step, state = make(loss)
    for i in range(2):
        state, _ = step(state, batch(i))
    good = state
    for i in range(2, 9):  # three bad steps, then good ones
        state, metrics = step(state, batch(i))
    same(state.params, good.params)
    same(state.timesteps, good.timesteps)
    assert metrics["bad_steps_in_a_row"] == 3 and state.step == 9


def test_accumulation_changes_only_rounding():
    steps = {a: make(accumulate=a, condition_dropout=0.3) for a in (1, 4)}
    states = {a: state for a, (_, state) in steps.items()}
    for i in range(10):
        metrics = {}
        for a, (step, _) in steps.items():
            states[a], metrics[a] = step(states[a], batch_at(i))
        np.testing.assert_allclose(metrics[1]["loss"], metrics[4]["loss"], rtol=2e-6)
        by_cluster = [metrics[a]["cluster_loss"] for a in (1, 4)]
        np.testing.assert_allclose(*by_cluster, rtol=1e-5)
    same(states[1].clusters.count, states[4].clusters.count)


def test_all_entries_of_a_condition_are_dropped_with_the_given_probability():
    seen = []

    def spy(params, x0, eps, u, condition, key):
        jax.debug.callback(lambda *x: seen.append(x), condition["label"], condition["text"])
        return example_loss(params, x0, eps, u, condition, key)

    null = {"label": 10, "text": jnp.full((2, 3), -1.0)}
    step, state = make(spy, null=null, condition_dropout=0.25)
    for i in range(40):
        state, _ = step(state, batch_at(i) | {"text": jnp.ones((32, 2, 3))})
    jax.effects_barrier()
    label, text = (np.concatenate(x) for x in zip(*seen, strict=True))
    dropped = label == 10
    assert abs(dropped.mean() - 0.25) < 4 * np.sqrt(0.25 * 0.75 / (40 * 32))
    np.testing.assert_array_equal(text[dropped], -1)
    np.testing.assert_array_equal(text[~dropped], 1)


@pytest.mark.parametrize("shape", [(8, 1), (1, 8), (4, 2)])
def test_eight_devices_train_like_one(shape):
    losses = {}
    for name, mesh in {
        "one": sharding.make_mesh(1, 1, jax.devices()[:1]),
        "eight": sharding.make_mesh(*shape),
    }.items():
        step, state = make(tau=1000)
        placed = sharding.state_sharding(mesh, state, min_size=8)
        state = jax.device_put(state, placed)
        if name == "eight" and shape[1] > 1:
            assert not state.params["w"].sharding.is_fully_replicated
            assert not state.opt_state[1][0].mu["w"].sharding.is_fully_replicated
        compiled = jax.jit(step, out_shardings=(placed, sharding.replicated(mesh)))
        losses[name] = []
        for i in range(20):
            host = jax.tree.map(np.asarray, batch_at(i))
            batch = sharding.global_batch(mesh, host, len(host["image"]))
            state, metrics = compiled(state, batch)
            losses[name].append(float(metrics["loss"]))
    np.testing.assert_allclose(losses["eight"], losses["one"], rtol=1e-6)
