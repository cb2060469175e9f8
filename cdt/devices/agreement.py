"""What the processes of a run tell each other before they start on the work.

They are one program on many devices: a config, a library or a file that differs on one of them
would show as a hang or as wrong numbers. So they compare, and all of them stop with one sentence.
Where there is one process, nothing is sent and everything agrees.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from cdt.errors import UserError

# Messages are filled up to a multiple of this, so that most of them share one compiled program.
_BLOCK_BYTES = 4096


def gather(value: Any) -> list[Any]:
    """The JSON values of all processes, in their order; all of them have to call it."""
    if not jax.distributed.is_initialized():
        return [value]
    message = np.frombuffer(json.dumps(value).encode(), np.uint8)
    sizes = multihost_utils.process_allgather(np.int32(len(message)))
    filled = np.zeros(-(-int(sizes.max()) // _BLOCK_BYTES) * _BLOCK_BYTES, np.uint8)
    filled[: len(message)] = message
    messages = multihost_utils.process_allgather(filled)
    return [json.loads(m[:size].tobytes()) for m, size in zip(messages, sizes, strict=True)]


def check_alike(told: Mapping[str, Any]) -> None:
    """Raise UserError on all processes unless all were told the same and have as many devices.

    Args:
      told: {name: JSON value}; the names may differ too.
    """
    counts = [len(jax.local_devices(process_index=k)) for k in range(jax.process_count())]
    if len(set(counts)) > 1:
        raise UserError(
            f"The processes have {', '.join(map(str, counts))} devices; give each as many."
        )
    differing = differences(gather(dict(told)))
    if differing:
        raise UserError(
            f"The processes of this run differ in {'; '.join(differing)}: start all of them with "
            "the same command, files and library versions."
        )


def differences(told: Sequence[Mapping[str, Any]]) -> list[str]:
    """One phrase for each name whose value is not the same in all of `told`, by process."""
    phrases = []
    for name in sorted(set().union(*told)):
        holders: dict[str, list[int]] = {}
        for process, values in enumerate(told):
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
    """A UserError of one process in the body becomes one on all, which would wait for it else.

    What the processes do together, they must do before anything in the body that can fail on one
    of them alone.
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
