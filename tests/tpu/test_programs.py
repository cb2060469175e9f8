"""The compiled programs of a run for TPU slices."""

import os
import re
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest

from benchmarks import targets
from benchmarks.cases import case_config
from benchmarks.collectives import collectives, sent_bytes, total_bytes
from cdt import from_config
from cdt.devices import sharding
from cdt.devices.memory import memory_errors
from cdt.errors import UserError

V5E = targets.CHIPS["v5e"]


def small_dit():
    return case_config(
        "dit_s2",
        **{"model.depth": 2, "model.dtype": "bfloat16", "train.batch_size": 32}
        | {"mesh.min_shard_size": 4096, "sample.steps": 3, "sample.guidance": 2.0},
    )


def test_a_step_gathers_parameters_and_reduces_gradients(capfd):
    """They are sent in bfloat16 and mostly overlap with computing; no activation is sent."""
    config = small_dit()
    step = targets.compiled_step(config, V5E, 8, fsdp=4)
    assert "full rematerialization" not in capfd.readouterr().err
    shapes = jax.eval_shape(from_config.model(config).init, jax.random.key(0))
    size = 2 * sum(leaf.size for leaf in jax.tree.leaves(shapes))
    found = collectives(step.as_text())
    moved = total_bytes(found)
    assert size <= moved["all-gather"] <= 2.1 * size
    assert moved["all-to-all"] + moved["collective-permute"] <= 0.15 * size
    # Each of the four devices that split the state sends 3/4 of it two or three times, and its
    # part of the gradients to the other replica.
    sent = sum(sum(sent_bytes(collective, 8, V5E.domain)) for collective in found)
    assert 2 * 0.75 * size <= sent <= 3 * 0.75 * size + 2 * size / 4
    assert total_bytes(c for c in found if c.overlaps)["all-gather"] >= 0.8 * moved["all-gather"]


def test_sampling_on_replicas_sends_nothing():
    config = small_dit()
    with targets.traced_for(V5E):
        mesh = sharding.make_mesh(-1, 1, targets.devices(V5E, 8))
        model = from_config.model(config, mesh)
        shapes = jax.eval_shape(model.init, jax.random.key(0))
        everywhere = jax.tree.map(lambda _: sharding.replicated(mesh), shapes)
        indices = jax.ShapeDtypeStruct((32,), jnp.int32, sharding=sharding.batch_sharding(mesh))
        program = from_config.sampler(config, model).lower(
            sharding.abstract(shapes, everywhere), indices, {"label": indices}
        )
        assert collectives(program.compile().as_text()) == []


def test_the_flags_of_the_docs_are_known():
    page = Path(__file__).parents[2] / "docs/performance.md"
    flags = re.search(r'LIBTPU_INIT_ARGS="([^"]*)"', page.read_text())[1].replace("\\\n", " ")
    program = (
        "from benchmarks import targets; targets.prepare_environment(); "
        "targets.devices(targets.CHIPS['v5e'], 8)"
    )

    def run(arguments):
        return subprocess.run(
            [sys.executable, "-c", program],
            env={**os.environ, "LIBTPU_INIT_ARGS": arguments},
            cwd=page.parents[1],
            capture_output=True,
            text=True,
        )

    assert run(flags).returncode == 0
    assert "Unknown command line flag" in run(flags + " --xla_tpu_no_such_flag=true").stderr


def test_what_does_not_fit_is_refused_in_one_sentence():
    where = jax.sharding.SingleDeviceSharding(targets.devices(V5E, 1)[0])
    x = jax.ShapeDtypeStruct((2**16, 2**16), jnp.float32, sharding=where)  # 16 GiB
    with pytest.raises(UserError, match=r"too small for this .*exceeds available HBM.*remat=block"):
        with memory_errors():
            jax.jit(lambda x: (x @ x) @ x).lower(x).compile()
