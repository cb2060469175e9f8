"""Checks that the processes of a run agree before they start to work.

A config, library or file that differs on one process would cause a hang or wrong results. So the
processes compare them, and all stop with one message if they differ. A single process sends
nothing.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from cdt.errors import UserError

# Messages are padded to a multiple of this, so that most of them use the same compiled program.
_BLOCK_BYTES = 4096


def gather(value: Any) -> list[Any]:
    """Return the JSON values of all processes, in their order; all processes must call it."""
    if not jax.distributed.is_initialized():
        return [value]
    message = np.frombuffer(json.dumps(value).encode(), np.uint8)
    sizes = multihost_utils.process_allgather(np.int32(len(message)))
    filled = np.zeros(-(-int(sizes.max()) // _BLOCK_BYTES) * _BLOCK_BYTES, np.uint8)
    filled[: len(message)] = message
    messages = multihost_utils.process_allgather(filled)
    return [json.loads(m[:size].tobytes()) for m, size in zip(messages, sizes, strict=True)]


def check_equal(settings: Mapping[str, Any]) -> None:
    """Raise UserError on all processes unless they have the same settings and number of devices.

    Args:
      settings: {name: JSON value}; processes may have different names too.
    """
    counts = [len(jax.local_devices(process_index=k)) for k in range(jax.process_count())]
    if len(set(counts)) > 1:
        raise UserError(
            f"The processes have {', '.join(map(str, counts))} devices; give each the same number."
        )
    differing = differences(gather(dict(settings)))
    if differing:
        raise UserError(
            f"The processes of this run differ in {'; '.join(differing)}: start all of them with "
            "the same command, files and library versions."
        )


def differences(settings: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return a phrase for each name whose value differs between processes.

    Args:
      settings: the settings of each process, see `check_equal`.
    """
    phrases = []
    for name in sorted(set().union(*settings)):
        holders: dict[str, list[int]] = {}
        for process, values in enumerate(settings):
            text = json.dumps(values[name]) if name in values else "missing"
            holders.setdefault(text, []).append(process)
        if len(holders) > 1:
            found = " and ".join(
                f"{text} on process {', '.join(map(str, processes))}"
                for text, processes in holders.items()
            )
            phrases.append(f"{name} ({found})")
    return phrases


@contextmanager
def errors_of_all() -> Iterator[None]:
    """A context that raises a UserError of one process on all; otherwise the others would hang.

    In the body, collectives must come before code that can fail on one process alone.
    """
    error = None
    try:
        yield
    except UserError as own:
        error = own
    found = gather(error and str(error))
    if error is not None:
        raise error
    for process, sentence in enumerate(found):
        if sentence is not None:
            raise UserError(f"Process {process} has stopped: {sentence}")
