"""How much memory a compiled program will take on each device, and what to do if there is less."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import jax

from cdt.errors import UserError

_GIB = 2**30
# What the allocator loses to fragments, and other programs of a run take, on a device that is full.
USABLE = 0.92


class Memory(NamedTuple):
    """Bytes of a program on each device, as its compiler plans them."""

    arguments: int  # parameters, averages, optimizer and batch
    results: int  # those that do not take the place of an argument
    temporary: int  # activations, gradients and buffers, at their peak

    @property
    def total(self) -> int:
        return sum(self)


def planned_memory(program: jax.stages.Compiled) -> Memory | None:
    """The plan of a compiled program; None where the backend tells none."""
    plan = program.memory_analysis()
    if plan is None:
        return None
    results = plan.output_size_in_bytes - plan.alias_size_in_bytes
    return Memory(plan.argument_size_in_bytes, max(0, results), plan.temp_size_in_bytes)


def device_memory() -> int | None:
    """Bytes that JAX may take on a device of this process; None where that is not known (CPUs)."""
    stats = jax.local_devices()[0].memory_stats() or {}
    return stats.get("bytes_limit")


def describe_memory(memory: Memory, limit: int | None) -> str:
    """One line for a person, with advice where a device of `limit` bytes looks too small."""
    line = (
        f"memory of a step on each device: {memory.total / _GIB:.2f} GiB (state and batch "
        f"{memory.arguments / _GIB:.2f}, temporary {memory.temporary / _GIB:.2f})"
    )
    if limit is None:
        return line
    line += f" of {limit / _GIB:.2f}"
    if memory.total <= USABLE * limit:
        return line
    if memory.arguments > memory.temporary:
        advice = "--config.mesh.fsdp splits the state over more devices"
    else:
        advice = (
            "--config.model.remat=elementwise or block keeps fewer activations, "
            "--config.train.accumulate=2 halves them"
        )
    return f"{line}, which looks too large: {advice}"


@contextmanager
def memory_errors() -> Iterator[None]:
    """Turn what JAX raises where a device has too little memory into a UserError.

    A TPU's compiler refuses a program that will not fit; GPUs and CPUs fail as it runs.
    """
    try:
        yield
    except jax.errors.JaxRuntimeError as error:
        reason = str(error).partition("\n")[0]
        if "RESOURCE_EXHAUSTED" not in reason and "Out of memory" not in reason:
            raise
        raise UserError(
            f"The memory of a device is too small for this ({reason.strip().rstrip('.')}); what "
            "was saved before is intact. In training --config.model.remat=block, "
            "--config.train.accumulate=2, a smaller --config.train.batch_size, or more devices "
            "with --config.mesh.fsdp need less on each; in sampling and evaluation a smaller "
            "--config.sample.batch_size."
        ) from error
