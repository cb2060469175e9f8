"""SIGTERM and SIGINT: finish the step, save, exit with code 75."""

import contextlib
import os
import signal
import threading
import time
from typing import Any

from cdt.errors import EXIT_STOPPED

_NUMBERS = (signal.SIGTERM, signal.SIGINT)
# A signal this soon after the first counts as the same one: `timeout` and terminals send it to the
# process and then to its group.
_SAME_SECONDS = 1.0


class StopRequest:
    """A context in which the first SIGTERM or SIGINT sets `requested`, and a second one exits.

    The second signal exits at once with code 75, without another checkpoint. A thread receives it,
    because Python's signal handlers wait for the main thread, which may be compiling or waiting for
    a device. Outside the main thread Python allows no handlers, and `requested` stays False.

    Attributes:
      requested: whether a signal has arrived.
      at_once: if True, the first signal exits too, because there is nothing to save.
    """

    def __init__(self, *, at_once: bool = False):
        self.requested = False
        self.at_once = at_once
        self._previous: dict[int, Any] = {}  # the handlers that signal.signal returned

    def __enter__(self) -> "StopRequest":
        if threading.current_thread() is threading.main_thread():
            self._reading, self._writing = os.pipe()
            os.set_blocking(self._writing, False)
            self._thread = threading.Thread(target=self._watch, name="signals", daemon=True)
            self._thread.start()
            # Python writes the number of each signal there when it arrives.
            self._previous_fd = signal.set_wakeup_fd(self._writing, warn_on_full_buffer=False)
            for number in _NUMBERS:
                self._previous[number] = signal.signal(number, self._handle)
        return self

    def __exit__(self, *exception: object) -> None:
        if self._previous:
            for number, handler in self._previous.items():
                signal.signal(number, handler)
            signal.set_wakeup_fd(self._previous_fd)
            os.close(self._writing)
            self._thread.join()
            os.close(self._reading)

    def _handle(self, number: int, frame: object) -> None:
        self.requested = True

    def _pass_on(self) -> None:
        """Called in the thread for the first signal; subclasses override it."""

    def _watch(self) -> None:
        first = None
        while byte := os.read(self._reading, 1):
            if byte[0] not in _NUMBERS:
                continue
            if self.at_once:
                _leave("Stopped by a signal before the first step")
            elif first is None:
                first = time.monotonic()
                self._pass_on()
            elif time.monotonic() - first > _SAME_SECONDS:
                _leave("Stopped by a second signal, without another checkpoint")


def _leave(what: str) -> None:
    with contextlib.suppress(OSError):
        os.write(2, f"cdt: {what}; run the same command again to resume.\n".encode())
    os._exit(EXIT_STOPPED)
