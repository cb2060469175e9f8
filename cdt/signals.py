"""SIGTERM and SIGINT: finish the step, save, leave with exit code 75."""

import os
import signal
import threading


class StopRequest:
    """A context in which the first SIGTERM or SIGINT sets `requested`; a second one exits at once
    with code 75, saving nothing more.

    Outside the main thread, where Python allows no handlers, nothing ever sets it.
    """

    def __init__(self):
        self.requested = False
        self._previous = {}

    def __enter__(self) -> "StopRequest":
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGTERM, signal.SIGINT):
                self._previous[number] = signal.signal(number, self._handle)
        return self

    def __exit__(self, *exception) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _handle(self, number, frame) -> None:
        if self.requested:
            os._exit(75)
        self.requested = True
