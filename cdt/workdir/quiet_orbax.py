"""Keeps from standard error what Orbax and its TensorStore say beside what they raise.

Each save is told in a dozen lines. Where a file cannot be read or written Orbax raises the first
error, closes its event loop and abandons all other coroutines in it, and each of them is then told
of in a traceback: by asyncio when such a task is collected, by Python when a coroutine
that never ran or was left half-way is, and by the threads of TensorStore that come back to a loop
that is closed.

The program has no coroutines of its own.
"""

import logging
import sys
import threading
import warnings


def silence() -> None:
    """Install the filters, for the whole process; call it once."""
    logging.getLogger("absl").addFilter(lambda record: "/orbax/checkpoint/" not in record.pathname)
    logging.getLogger("asyncio").addFilter(_is_no_abandoned_task)
    warnings.filterwarnings("ignore", "coroutine .* was never awaited", RuntimeWarning)
    hook = sys.unraisablehook
    sys.unraisablehook = lambda event: None if _is_of_abandoned(event) else hook(event)


def _is_no_abandoned_task(record: logging.LogRecord) -> bool:
    message = record.getMessage().lower()
    return "orbax" not in message and "ocdbt" not in message


def _is_of_abandoned(event: "sys.UnraisableHookArgs") -> bool:
    """Whether one of Orbax's coroutines is collected, or a thread of TensorStore's, which Python
    has not started, has found its loop closed."""
    code = getattr(event.object, "cr_code", None)
    if code is not None:
        return "/orbax/checkpoint/" in code.co_filename
    return (
        isinstance(event.exc_value, RuntimeError)
        and str(event.exc_value) == "Event loop is closed"
        and isinstance(threading.current_thread(), threading._DummyThread)
    )
