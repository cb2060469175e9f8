"""Filters for the messages that Orbax and TensorStore print in addition to the errors they raise.

Orbax logs a dozen lines for each save. When a file cannot be read or written, it raises the first
error, closes its event loop and abandons the other coroutines. Each of these would print a
traceback later: from asyncio or Python when it is garbage-collected, or from a TensorStore thread
that finds the loop closed.

cdt has no coroutines of its own, so the filters hide nothing of cdt.
"""

import logging
import sys
import threading
import warnings


def silence() -> None:
    """Install the filters for the whole process; call it once."""
    logging.getLogger("absl").addFilter(lambda record: "/orbax/checkpoint/" not in record.pathname)
    logging.getLogger("asyncio").addFilter(_is_no_abandoned_task)
    warnings.filterwarnings("ignore", "coroutine .* was never awaited", RuntimeWarning)
    hook = sys.unraisablehook
    sys.unraisablehook = lambda event: None if _is_of_abandoned(event) else hook(event)


def _is_no_abandoned_task(record: logging.LogRecord) -> bool:
    message = record.getMessage().lower()
    return "orbax" not in message and "ocdbt" not in message


def _is_of_abandoned(event: "sys.UnraisableHookArgs") -> bool:
    """Return whether the error is of an abandoned coroutine of Orbax or a TensorStore thread.

    A TensorStore thread is not started by Python, so it is a _DummyThread.
    """
    code = getattr(event.object, "cr_code", None)
    if code is not None:
        return "/orbax/checkpoint/" in code.co_filename
    return (
        isinstance(event.exc_value, RuntimeError)
        and str(event.exc_value) == "Event loop is closed"
        and isinstance(threading.current_thread(), threading._DummyThread)
    )
