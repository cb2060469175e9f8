"""The memory that a step is said to need."""

import re

import jax
import jax.numpy as jnp
import pytest

from cdt.devices.memory import Memory, describe_memory, memory_errors, planned_memory
from cdt.errors import UserError

GIB = 2**30


def test_a_donated_state_is_counted_once():
    def step(state, batch):
        return state + batch.sum(), batch.mean()

    state = jax.ShapeDtypeStruct((1000,), jnp.float32)
    batch = jax.ShapeDtypeStruct((50,), jnp.float32)
    memory = planned_memory(jax.jit(step, donate_argnums=0).lower(state, batch).compile())
    assert memory.arguments == 4000 + 200
    assert memory.results < 100  # the mean and its tuple
    kept = planned_memory(jax.jit(step).lower(state, batch).compile())
    assert kept.results == memory.results + 4000


def test_what_is_kept_for_the_backward_pass_is_temporary():
    def loss(x, depth):
        for _ in range(depth):
            x = jnp.sin(x @ x)
        return x.sum()

    x = jax.ShapeDtypeStruct((128, 128), jnp.float32)
    gradient = jax.jit(jax.grad(loss), static_argnums=1)
    short, long = (planned_memory(gradient.lower(x, depth).compile()) for depth in (4, 8))
    assert long.temporary - short.temporary >= 4 * 4 * 128**2  # a matrix a block at least


@pytest.mark.parametrize(
    "memory, limit, expected",
    [
        (
            Memory(3 * GIB, 0, 5 * GIB),
            None,
            r"8\.00 GiB \(state and batch 3\.00, temporary 5\.00\)$",
        ),
        (Memory(3 * GIB, 0, 5 * GIB), 80 * GIB, r"of 80\.00$"),
        (Memory(3 * GIB, 0, 5 * GIB), 8 * GIB, r"looks too large: .*remat=elementwise or block"),
        (Memory(6 * GIB, 0, 5 * GIB), 8 * GIB, r"looks too large: .*mesh\.fsdp"),
    ],
)
def test_what_a_person_reads(memory, limit, expected):
    assert re.search(expected, describe_memory(memory, limit))


def test_a_device_that_is_too_small():
    with pytest.raises(UserError, match=r"too small for this \(.*Out of memory.*remat=block"):
        with memory_errors():
            jax.jit(lambda: jnp.ones(2**44))().block_until_ready()


def test_other_errors_of_the_runtime_are_raised_as_they_are():
    with pytest.raises(jax.errors.JaxRuntimeError, match="not now"):
        with memory_errors():
            raise jax.errors.JaxRuntimeError("UNAVAILABLE: not now")
