"""A checkpoint of any mesh continues on any other: the same state, then the same training.

The meshes are in one process with eight simulated devices; tests/hosts has several processes.
"""

import jax
import numpy as np
import pytest

from cdt.devices import sharding
from cdt.workdir.checkpoint import Checkpointer
from sharded_steps import BATCH, batch_of, compiled_step, mesh_of, small

pytestmark = pytest.mark.slow

MESHES = [(1, 1), (8, 1), (1, 8), (4, 2)]
SAVED_AT, STEPS = 5, 20


def run(step, state, source, mesh, begin, end):
    losses = []
    for i in range(begin, end):
        state, metrics = step(state, sharding.global_batch(mesh, batch_of(source, i), BATCH))
        losses.append(float(metrics["loss"]))
    return state, losses


def host(state):
    return jax.tree.map(np.asarray, jax.tree.leaves(state))


@pytest.fixture(scope="module")
def programs():
    """{mesh: (jax.sharding.Mesh, initial state, compiled step, source)}"""
    return {shape: (mesh_of(*shape), *compiled_step(small("dit"), mesh_of(*shape)))
            for shape in MESHES}  # fmt: skip


@pytest.mark.parametrize("saved_on", MESHES)
def test_any_mesh_continues_the_run_of_any_other(programs, saved_on, tmp_path):
    mesh, state, step, source = programs[saved_on]
    state, _ = run(step, state, source, mesh, 0, SAVED_AT)
    checkpoints = Checkpointer(tmp_path, keep=1)
    checkpoints.save(SAVED_AT, {"state": state}, {})
    checkpoints.close()
    saved = host(state)
    _, expected = run(step, state, source, mesh, SAVED_AT, SAVED_AT + STEPS)
    assert len(set(expected)) == STEPS
    for mesh, initial, step, source in programs.values():
        abstract = jax.tree.map(
            lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), initial
        )
        found, items, _ = Checkpointer(tmp_path, keep=1).restore_latest({"state": abstract})
        restored = items["state"]
        assert found == int(restored.step) == SAVED_AT  # so the data continue at this step
        jax.tree.map(lambda a, b: np.testing.assert_array_equal(a, b), host(restored), saved)
        jax.tree.map(
            lambda x, like: np.testing.assert_equal(x.sharding, like.sharding), restored, initial
        )
        _, losses = run(step, restored, source, mesh, SAVED_AT, SAVED_AT + STEPS)
        np.testing.assert_allclose(losses, expected, rtol=1e-6)
