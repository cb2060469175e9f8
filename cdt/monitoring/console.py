"""Messages of the command line: plain lines, phases with their time, and output that never fails.

Messages are records of level INFO of the logger `cdt`. The command prints them on standard error,
on process 0 only. A program that imports cdt does not see them unless it lowers the logger's level.
"""

import contextlib
import io
import itertools
import logging
import os
import select
import sys
import threading
import time
from collections.abc import Iterable, Iterator
from typing import Any, TypeVar

from cdt.version import __version__

T = TypeVar("T")

_LOG = logging.getLogger("cdt")
# Seconds from one line about a running phase to the next: after 10, 30 and 60 s, then each minute.
_PAUSES = (10.0, 20.0, 30.0, 60.0)
# A phase prints its first line after this time, so that a quick one is a single line or none.
_QUIET_SECONDS = 0.3
# A shorter phase prints no time.
_SHORT_SECONDS = 1.0
# A write waits this long for a full pipe or a stopped terminal, once.
_PATIENCE_SECONDS = 1.0
# A pipe that can be written to takes this many bytes without waiting (PIPE_BUF of Linux).
_CHUNK_BYTES = 4096


def open_console() -> None:
    """Prepare standard output and error for a command; call it first in a program.

    Warnings and messages go to standard error, one line each. Output that cannot be written is
    dropped, so a closed pipe, a full disk or a stopped terminal never ends or blocks a run.
    """
    for name, fd in (("stdout", 1), ("stderr", 2)):
        stream = getattr(sys, name)
        if stream is getattr(sys, f"__{name}__"):  # not where a test or a notebook has its own
            setattr(sys, name, _unfailing(stream, fd))
    root = logging.getLogger()
    for handler in root.handlers[:]:
        if type(handler) is logging.StreamHandler:  # from a library, with a prefix for each line
            root.removeHandler(handler)
    logging.basicConfig(level=logging.WARNING, format="%(message)s")


def start(mode: str, config: str, workdir: str, process: int) -> None:
    """Print the first line of a command; from here on, print the messages of process 0.

    Args:
      mode: name of the mode or program.
      config: config file as given.
      workdir: folder of the run.
      process: number of this process, 0 for a process alone.
    """
    _LOG.setLevel(logging.WARNING if process else logging.INFO)
    info(f"cdt {__version__}: {mode}, {config} -> {workdir}")


def info(text: str) -> None:
    """Print a line, if this program prints messages."""
    _LOG.info(text)


class phase:
    """A context that prints its name at the start, while it lasts, and at the end.

        generating images ...
        generating images ... 512 / 2,000 (10 s)
        generating images ... done (41 s)

    A quick phase prints its result only, if it has one. The others print their time from a second
    on.

    Args:
      what: name of the phase, such as "generating images".
      total: number of items that `count` will count; 0 if they are not counted.

    Attributes:
      result: text for the last line, set in the body.
    """

    def __init__(self, what: str, total: int = 0):
        self._what, self._total = what, total
        self._done = 0
        self._ended = threading.Event()
        self.result = ""

    def __enter__(self) -> "phase":
        self._began = time.monotonic()
        self._thread = threading.Thread(target=self._repeat, name="phase", daemon=True)
        if _LOG.isEnabledFor(logging.INFO):
            self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._ended.set()
        if self._thread.is_alive():
            self._thread.join()
        seconds = time.monotonic() - self._began
        if exception[0] is None and (self.result or seconds >= _SHORT_SECONDS):
            taken = f" ({duration(seconds)})" if seconds >= _SHORT_SECONDS else ""
            info(f"{self._what} ... {self.result or 'done'}{taken}")

    def count(self, number: int) -> None:
        """Note that `number` more items are done."""
        self._done += number

    def counted(self, blocks: Iterable[T]) -> Iterator[T]:
        """Yield the blocks, which have a length, and count their items as each has been used."""
        for block in blocks:
            yield block
            self.count(len(block))  # type: ignore[arg-type]

    def _repeat(self) -> None:
        if self._ended.wait(_QUIET_SECONDS):
            return
        info(f"{self._what} ...")
        for pause in itertools.chain(_PAUSES, itertools.repeat(_PAUSES[-1])):
            if self._ended.wait(pause):
                return
            done = f"{self._done:,} / {self._total:,}" if self._total else "still running"
            seconds = time.monotonic() - self._began
            info(f"{self._what} ... {done} ({duration(seconds)})")


def duration(seconds: float) -> str:
    """Return seconds as text for a reader: "1.9 s", "41 s", "2 min 5 s" or "1 h 12 min"."""
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes == 0:
        return f"{rest} s"
    if minutes < 60:
        return f"{minutes} min {rest} s" if rest else f"{minutes} min"
    return f"{minutes // 60} h {minutes % 60} min"


class _Unfailing(io.FileIO):
    """A file whose writes neither fail nor block: it drops what it cannot write."""

    _waits = True

    def write(self, content: Any) -> int:
        view = memoryview(content).cast("B")
        for begin in range(0, len(view), _CHUNK_BYTES):
            chunk = view[begin : begin + _CHUNK_BYTES]
            while chunk:
                with contextlib.suppress(OSError, ValueError):
                    patience = _PATIENCE_SECONDS if self._waits else 0.0
                    self._waits = bool(select.select([], [self], [], patience)[1])
                    if self._waits and (written := super().write(chunk)):
                        chunk = chunk[written:]
                        continue
                return len(view)
        return len(view)


def _unfailing(stream: Any, fd: int) -> io.TextIOWrapper:
    """Return a text stream for a file descriptor that is open or was closed by the shell."""
    if stream is None:
        null = os.open(os.devnull, os.O_WRONLY)
        if null != fd:
            os.dup2(null, fd)
            os.close(null)
        encoding = "utf-8"
    else:
        encoding = stream.encoding
        with contextlib.suppress(OSError):
            stream.flush()
    buffer = io.BufferedWriter(_Unfailing(fd, "wb", closefd=False))
    return io.TextIOWrapper(buffer, encoding, errors="backslashreplace", line_buffering=True)
