"""Train steps on several meshes: the same losses, and only parameters are gathered."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks.collectives import collectives, total_bytes
from cdt import from_config
from cdt.devices import sharding
from sharded_steps import BATCH, STEPS, batch_of, compiled_step, mesh_of, small


def losses_on(*shape):
    mesh = mesh_of(*shape)
    state, step, source = compiled_step(small("dit"), mesh)
    qkv = state.params["blocks"]["attention"]["qkv"]["kernel"]
    assert qkv.addressable_shards[0].data.size * shape[1] == qkv.size
    losses = []
    for i in range(STEPS):
        state, metrics = step(state, sharding.global_batch(mesh, batch_of(source, i), BATCH))
        losses.append(float(metrics["loss"]))
    assert len(set(losses)) == STEPS
    return losses


@pytest.fixture(scope="module")
def on_one_device():
    return losses_on(1, 1)


@pytest.mark.parametrize(
    "shape",
    # The mesh of both axes covers each axis alone.
    [(4, 2), pytest.param((8, 1), marks=pytest.mark.long),
     pytest.param((1, 8), marks=pytest.mark.long)],
)  # fmt: skip
def test_any_mesh_gives_the_same_training(on_one_device, shape):
    np.testing.assert_allclose(losses_on(*shape), on_one_device, rtol=1e-6)


@pytest.mark.long  # routing and SpeeD are tested on one device elsewhere
def test_task_routing_and_speed_on_a_mesh_of_two_axes():
    """The same losses as on one device; no activation moves because of masks or duals."""
    config = small("dit")
    config.update_from_flattened_dict(
        {
            "model.routing": True,
            "process.name": "ddpm",
            "curriculum.enabled": False,
            "density.name": "speed",
        }
    )
    losses = {}
    for shape in [(1, 1), (4, 2)]:
        mesh = mesh_of(*shape)
        state, step, source = compiled_step(config, mesh)
        size = sum(p.nbytes for p in jax.tree.leaves(state.params))
        losses[shape] = []
        for i in range(3):
            state, metrics = step(state, sharding.global_batch(mesh, batch_of(source, i), BATCH))
            losses[shape].append(float(metrics["loss"]))
    np.testing.assert_allclose(losses[4, 2], losses[1, 1], rtol=1e-6)
    moved = total_bytes(collectives(step.as_text()))
    assert moved["all-gather"] <= 2.1 * size
    assert moved["all-to-all"] + moved["collective-permute"] <= 0.15 * size


@pytest.mark.parametrize("network", ["dit", pytest.param("ddpmpp", marks=pytest.mark.slow)])
def test_a_step_gathers_parameters_and_reduces_gradients(network, capfd):
    """Once per pass; nothing as large as an activation moves."""
    state, step, _ = compiled_step(small(network), mesh_of(4, 2))
    assert "full rematerialization" not in capfd.readouterr().err
    size = sum(p.nbytes for p in jax.tree.leaves(state.params))
    moved = total_bytes(collectives(step.as_text()))
    assert moved["all-gather"] <= 2.1 * size
    # The CPU has no reduce-scatter: it reduces whole arrays over one axis and half over the other.
    assert 0.9 * size <= moved["all-reduce"] <= 1.6 * size
    # The modulation [B, 6 D] moves to its parameters, which are larger.
    assert moved["all-to-all"] + moved["collective-permute"] <= 0.15 * size


@pytest.mark.long  # a mesh of both axes is tested above
def test_replicas_exchange_gradients_only():
    state, step, _ = compiled_step(small("dit"), mesh_of(8, 1))
    moved = total_bytes(collectives(step.as_text()))
    size = sum(p.nbytes for p in jax.tree.leaves(state.params))
    assert set(moved) == {"all-reduce"} and size <= moved["all-reduce"] <= 1.01 * size


def test_sampling_on_replicas_moves_nothing():
    config, mesh = small("dit"), mesh_of(8, 1)
    model = from_config.model(config, mesh)
    shapes = jax.eval_shape(model.init, jax.random.key(0))
    params = sharding.abstract(shapes, jax.tree.map(lambda _: sharding.replicated(mesh), shapes))
    indices = jax.ShapeDtypeStruct((BATCH,), jnp.int32, sharding=sharding.batch_sharding(mesh))
    program = from_config.sampler(config, model).lower(params, indices, {"label": indices})
    assert collectives(program.compile().as_text()) == []


def test_collectives_in_loops_are_counted_once_per_iteration():
    mesh = mesh_of(2, 1)
    split = jax.ShapeDtypeStruct((6, 4), jnp.float32, sharding=sharding.batch_sharding(mesh))

    def program(x):
        def body(carry, _):
            return carry + jnp.sin(carry + x.sum(0)), None  # 16 bytes over two devices

        return jax.lax.scan(body, jnp.zeros(4), length=5)[0]

    def loop_of_unknown_length(x):
        return jax.lax.while_loop(lambda y: y.sum() < 9, lambda y: y + y.sum(), x)

    text = jax.jit(lambda x: program(x) + x.max(0)).lower(split).compile().as_text()
    found = collectives(text)
    assert sum(c.num_bytes * c.times for c in found if "reduce_max" in c.op_name) == 16
    assert total_bytes(found)["all-reduce"] in (32, 16 + 5 * 16)  # hoisted out of the loop or not
    text = jax.jit(loop_of_unknown_length).lower(split).compile().as_text()
    with pytest.raises(ValueError, match="unknown length contains"):
        collectives(text)
