"""Memory of a compiled program on each device, and messages if it does not fit."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import jax

from cdt.errors import UserError

_GIB = 2**30
# Usable fraction of a device; the rest is for fragmentation and the other programs of a run.
USABLE = 0.92


class Memory(NamedTuple):
    """Planned bytes of a program on each device, from the compiler."""

    arguments: int  # parameters, EMAs, optimizer and batch
    results: int  # results that do not reuse the memory of an argument
    temporary: int  # activations, gradients and buffers, at their peak

    @property
    def total(self) -> int:
        return sum(self)


def planned_memory(program: jax.stages.Compiled) -> Memory | None:
    """Return the planned memory of a compiled program; None if the backend does not report it."""
    plan = program.memory_analysis()
    if plan is None:
        return None
    results = plan.output_size_in_bytes - plan.alias_size_in_bytes
    return Memory(plan.argument_size_in_bytes, max(0, results), plan.temp_size_in_bytes)


def device_memory() -> int | None:
    """Return the bytes that JAX may use on a device of this process; None if unknown (CPUs)."""
    stats = jax.local_devices()[0].memory_stats() or {}
    return stats.get("bytes_limit")


def describe_memory(memory: Memory, limit: int | None) -> str:
    """Return one line of text, with advice if a device of `limit` bytes looks too small."""
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
    """A context that raises JAX's out-of-memory errors as UserError.

    A TPU's compiler refuses a program that does not fit; GPUs and CPUs fail while it runs.
    """
    try:
        yield
    except jax.errors.JaxRuntimeError as error:
        reason = str(error).partition("\n")[0]
        if "RESOURCE_EXHAUSTED" not in reason and "Out of memory" not in reason:
            raise
        raise UserError(
            f"The memory of a device is too small for this ({reason.strip().rstrip('.')}); saved "
            "checkpoints are intact. To train with less memory per device, use "
            "--config.model.remat=block, --config.train.accumulate=2, a smaller "
            "--config.train.batch_size, or more devices with --config.mesh.fsdp; to sample or "
            "evaluate, use a smaller --config.sample.batch_size."
        ) from error
