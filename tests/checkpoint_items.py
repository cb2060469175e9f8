"""A small train state, to test saving and restoring."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from cdt.workdir.checkpoint import Checkpointer

META = {"config": {"lr": 2e-4, "sizes": [1, 2], "limit": None}, "open_all_at": 17}


class Pacing(NamedTuple):
    stage: jax.Array
    best: jax.Array
    draws: jax.Array


def mesh_of(devices: int) -> jax.sharding.Mesh:
    return jax.make_mesh(
        (devices,), ("fsdp",), axis_types=(AxisType.Auto,), devices=jax.devices()[:devices]
    )


def make_items(seed: int, devices: int = 1) -> dict:
    """A small train state; arrays of rank 2 are sharded over the devices."""
    key = jax.random.key(seed)
    params = {
        "blocks": {
            "kernel": jax.random.normal(key, (8, 24)),
            "bias": jnp.full((24,), -0.0),
        },
        "head": jax.random.normal(key, (16, 4)).astype(jnp.bfloat16),
    }
    mask = {"blocks": {"kernel": True, "bias": False}, "head": True}
    optimizer = optax.chain(
        optax.clip_by_global_norm(1.0), optax.adamw(optax.constant_schedule(1e-3), mask=mask)
    )
    updates, opt_state = optimizer.update(params, optimizer.init(params), params)
    items = {
        "step": jnp.int32(seed),
        "params": params,
        "ema": {"0.999": optax.apply_updates(params, updates), "half_life_0.5": params},
        "opt": opt_state,
        "timesteps": Pacing(jnp.int32(3), jnp.float32(jnp.inf), jnp.arange(6, dtype=jnp.uint32)),
        "flags": {"seen": jnp.array([True, False]), "pixels": jnp.uint8(200), "none": None},
        "empty": {"rows": jnp.zeros((0, 3)), "unit": ()},
    }
    return jax.device_put(items, shardings(items, devices))


def shardings(items: dict, devices: int) -> dict:
    mesh = mesh_of(devices)
    return jax.tree.map(
        lambda x: NamedSharding(mesh, PartitionSpec("fsdp") if x.ndim == 2 else PartitionSpec()),
        items,
    )


def abstract(items: dict, devices: int = 1) -> dict:
    return jax.tree.map(
        lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s),
        items,
        shardings(items, devices),
    )


def assert_same(items: dict, expected: dict) -> None:
    """Assert the same containers, types and bits."""
    assert jax.tree.structure(items) == jax.tree.structure(expected)
    for one, other in zip(jax.tree.leaves(items), jax.tree.leaves(expected), strict=True):
        assert (one.dtype, one.shape) == (other.dtype, other.shape)
        assert np.asarray(one).tobytes() == np.asarray(other).tobytes()


def save(directory, *steps: int, keep: int = 3) -> None:
    checkpoints = Checkpointer(directory, keep=keep)
    for step in steps:
        checkpoints.save(step, make_items(step), META | {"step": step})
    checkpoints.close()
