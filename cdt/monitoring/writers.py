"""Metrics of a run in `metrics.jsonl` and for TensorBoard; the only importer of clu.

clu's writers import TensorFlow, which keeps a core busy for many seconds. So metrics go to
`metrics.jsonl` at once, and those for TensorBoard wait in a queue until a thread has imported it.
A metric that cannot be written never fails the run: one warning is logged.

Each line of `metrics.jsonl` is a JSON object, either scalars

    {"step": 500, "time": 1767225600.125, "loss": 0.25, ...}

with seconds since 1970 and null for NaN and inf, which JSON does not have, or

    {"event": "resume", "step": 400, "time": ...}

where a run resumes from a checkpoint: earlier lines with a later step are no longer valid.
"""

import json
import logging
import math
import os
import queue
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np
from etils import epath

from cdt.errors import UserError

HISTORY_FILE = "metrics.jsonl"
TENSORBOARD_FOLDER = "tensorboard"

# An object in a bucket cannot be appended to. It is rewritten whole, so not at every line.
_REMOTE_SECONDS = 30.0

# Names of version 0.1.0 -> names of today.
_RENAMED = {"data_wait_share": "data_wait_fraction"}

_LOG = logging.getLogger(__name__)


class Writer:
    """Write the metrics of a run; processes other than 0 do nothing.

    Args:
      workdir: folder of the run, created if missing; local or gs://.
      tensorboard: whether events are written for TensorBoard as well, in `workdir/tensorboard`.

    Raises:
      UserError: `workdir` cannot be written to.
    """

    def __init__(self, workdir: epath.PathLike, *, tensorboard: bool):
        self._active = jax.process_index() == 0
        self._failed = False
        self._thread: _TensorBoardThread | None = None
        self._has_lines = False
        if not self._active:
            return
        path = epath.Path(workdir)
        try:
            path.mkdir(parents=True, exist_ok=True)
            remote = "://" in os.fspath(workdir)
            file = path / HISTORY_FILE
            self._has_lines = file.exists() and file.stat().length > 0
            self._lines = (_RemoteLines if remote else _LocalLines)(file)
        except OSError as error:
            raise UserError(
                f"Metrics cannot be written to {path} ({error.strerror or error}); choose another "
                "--workdir or fix its permissions."
            ) from error
        if tensorboard:
            self._thread = _TensorBoardThread(path / TENSORBOARD_FOLDER)

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Write numbers.

        Args:
          step: steps done.
          values: {name: number}, on the host; "step", "time" and "event" are taken. A name with
            slashes is a group in TensorBoard.
        """
        step, values = int(step), {name: float(value) for name, value in values.items()}
        finite = {name: x if math.isfinite(x) else None for name, x in values.items()}
        self._write_line({"step": step, "time": _now(), **finite})
        if self._thread is not None:
            self._thread.put(lambda writer: writer.write_scalars(step, values))

    def images(self, step: int, images: Mapping[str, np.ndarray]) -> None:
        """Write images for TensorBoard.

        Args:
          step: steps done.
          images: {name: uint8 [H, W, C] or [N, H, W, C]}, C 1 or 3.
        """
        if self._thread is not None:
            self._thread.put(lambda writer: writer.write_images(step, images))

    def start(self, step: int) -> None:
        """Log that training starts after `step`: scalars of later steps become invalid.

        A new run, whose file is empty, logs nothing.

        Args:
          step: steps done; 0 invalidates all scalars, because those of step 0 are written again.
        """
        if step > 0 or self._has_lines:
            self._write_line({"event": "resume", "step": step, "time": _now()})

    def start_tensorboard(self) -> None:
        """Import TensorFlow in a thread and write the queue; call it once, after the first
        completed step."""
        if self._thread is not None:
            self._thread.start()

    def close(self) -> None:
        """Write everything that is queued; wait for TensorFlow if its import was started."""
        if self._thread is not None:
            self._thread.close()
        if self._active:
            self._guarded(self._lines.close)

    def _write_line(self, record: dict[str, Any]) -> None:
        if self._active:
            line = json.dumps(record, allow_nan=False) + "\n"
            self._guarded(self._lines.write, line.encode())

    def _guarded(self, action: Callable[..., None], *args: bytes) -> None:
        try:
            action(*args)
        except Exception as error:  # storage clients raise more than OSError
            if not self._failed:
                _LOG.warning(f"Metrics cannot be written ({error}); training continues.")
            self._failed = True


def read_history(workdir: epath.PathLike) -> list[dict[str, Any]]:
    """Read the scalars of a run as one history, as if it had never been interrupted.

    Lines that a resume made invalid are left out, and so is an incomplete line of a killed process.

    Returns:
      [{"step": int, "time": seconds, name: number or nan, ...}, ...] in the order of writing; empty
      if nothing was written. Differences of "time" are running time: pauses between a stop and the
      next start, and lost work, are subtracted.
    """
    path = epath.Path(workdir) / HISTORY_FILE
    history: list[dict[str, Any]] = []
    pause = 0.0
    if not path.exists():
        return history
    for line in path.read_bytes().splitlines():
        try:
            record = json.loads(line)
            step, time_written = record["step"], record["time"]
        except (ValueError, TypeError, KeyError):
            continue
        if record.get("event") == "resume":
            history = [earlier for earlier in history if 0 < step >= earlier["step"]]
            pause = time_written - history[-1]["time"] if history else 0.0
        else:
            record["time"] = time_written - pause
            history.append(
                {
                    _RENAMED.get(name, name): math.nan if x is None else x
                    for name, x in record.items()
                }
            )
    return history


def _now() -> float:
    return round(time.time(), 3)


class _LocalLines:
    """Append each line to a local file at once; a line that fails is tried again with the next."""

    def __init__(self, path: epath.Path):
        # Without the newline, an incomplete line of a killed process would spoil the next one.
        self._pending = b"\n" if _is_torn(path) else b""
        self._file = open(path, "ab", buffering=0)

    def write(self, line: bytes) -> None:
        self._pending += line
        self.flush()

    def flush(self) -> None:
        while self._pending:
            self._pending = self._pending[self._file.write(self._pending) :]

    def close(self) -> None:
        self.flush()
        self._file.close()


class _RemoteLines:
    """Keep all lines in memory; write the whole object at most every `_REMOTE_SECONDS`."""

    def __init__(self, path: epath.Path):
        self._path = path
        self._text = path.read_bytes() if path.exists() else b""
        if _is_torn(path):
            self._text += b"\n"
        self.flush()  # so that a bucket that cannot be written to fails now

    def write(self, line: bytes) -> None:
        self._text += line
        if time.monotonic() >= self._flushed + _REMOTE_SECONDS:
            self.flush()

    def flush(self) -> None:
        self._flushed = time.monotonic()
        self._path.write_bytes(self._text)

    def close(self) -> None:
        self.flush()


def _is_torn(path: epath.Path) -> bool:
    return path.exists() and not (b"\n" + path.read_bytes()).endswith(b"\n")


class _TensorBoardThread:
    """Call a clu writer from a thread, in order, once it is imported."""

    def __init__(self, folder: epath.Path):
        self._folder = folder
        self._calls: queue.SimpleQueue[Callable[[Any], None] | None] = queue.SimpleQueue()
        self._failed = False
        self._thread = threading.Thread(target=self._run, name="tensorboard", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def put(self, call: Callable[[Any], None]) -> None:
        if not self._failed:
            self._calls.put(call)

    def close(self) -> None:
        if self._thread.is_alive():
            self._calls.put(None)
            self._thread.join()

    def _run(self) -> None:
        try:
            os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
            os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")  # otherwise it prints a notice
            import tensorflow as tf

            tf.config.set_visible_devices([], "GPU")  # otherwise it takes the memory that JAX needs
            from clu import metric_writers

            writer = metric_writers.SummaryWriter(os.fspath(self._folder))
            while (call := self._calls.get()) is not None:
                call(writer)
            writer.close()
        except Exception as error:  # an import can fail with anything
            self._failed = True
            _LOG.warning(
                f"No events for TensorBoard ({type(error).__name__}: {error}); "
                f"{HISTORY_FILE} has all metrics."
            )
