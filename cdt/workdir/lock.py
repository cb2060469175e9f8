"""The lock of a workdir: one run at a time writes.

A run writes `lock.json` with its host, its process and a counter, the beat, which it increases
every ten seconds. A run that finds the lock of another run checks whether that run is alive:

- On the same kernel, `/proc` shows whether the process exists. A process number may be used again,
  so the start time is compared too.
- On another host, only the beat shows it. If the beat does not change for one minute, the run is
  assumed dead. Clocks of hosts need not agree.

A killed run can therefore be restarted at once on the same host, and after one minute on another.
A lock may be taken from a living run, if that run was frozen for more than a minute or two runs
started at the same moment. It finds this at its next beat and ends.
"""

import json
import logging
import os
import socket
import sys
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import jax
from etils import epath

from cdt.devices.agreement import errors_of_all
from cdt.errors import EXIT_USER_ERROR, UserError
from cdt.files import atomic

LOCK_FILE = "lock.json"
BEAT_SECONDS = 10.0
STALE_SECONDS = 60.0

_LOG = logging.getLogger(__name__)


@contextmanager
def locked(workdir: epath.PathLike) -> Iterator[None]:
    """Hold the lock of a workdir in a `with` block; process 0 holds it for all processes.

    Raises:
      UserError: on all processes: a living run holds the lock, or the workdir cannot be written to.
    """
    with ExitStack() as stack:
        with errors_of_all():
            if jax.process_index() == 0:
                stack.enter_context(Lock(workdir))
        yield


class Lock:
    """Lock of a workdir, a context manager for one process.

    Entering takes up to one minute if another host has the lock. A workdir that this lock created
    is removed on exit if it is empty.

    Args:
      workdir: local or gs://; created if it does not exist.
    """

    def __init__(self, workdir: epath.PathLike):
        self._workdir = epath.Path(workdir)
        self._file = self._workdir / LOCK_FILE
        self._local = "://" not in os.fspath(workdir)
        self._mine: dict[str, Any] = {
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "kernel": _kernel(),
            "started": _started(os.getpid()),
            "token": uuid.uuid4().hex,
            "beat": 0,
        }
        self._made = False
        self._released = threading.Event()
        self._thread = threading.Thread(target=self._keep_beating, name="lock", daemon=True)

    def __enter__(self) -> "Lock":
        try:
            self._made = not self._workdir.exists()
            self._workdir.mkdir(parents=True, exist_ok=True)
            while not self._create():
                found = _read(self._file)
                if found is not None and self._is_dead(found):
                    self._remove(found)
        except OSError as error:
            raise UserError(
                f"The workdir {self._workdir} cannot be written to ({error.strerror or error}); "
                "give another --workdir or fix its permissions."
            ) from None
        self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._released.set()
        self._thread.join()
        try:
            if self._is_mine(_read(self._file)):
                self._file.unlink()
            if self._made and self._local and not any(self._workdir.iterdir()):
                self._workdir.rmdir()
        except OSError as error:
            _LOG.warning(
                f"{self._file} cannot be removed ({error}); the next run will detect it as stale."
            )

    def _create(self) -> bool:
        """Write the lock and return True, or return False if there is one."""
        text = json.dumps(self._mine)
        if self._local:
            try:
                file = open(self._file, "x")  # atomic, also on NFS: only one process succeeds
            except FileExistsError:
                return False
            try:
                with file:
                    file.write(text)
            except OSError:
                self._file.unlink()
                raise
        else:
            if self._file.exists():
                return False
            atomic.write(self._file, text)
        return True

    def _remove(self, stale: dict[str, Any]) -> None:
        """Remove the lock `stale`, unless another run has replaced it in the meantime."""
        aside = self._workdir / f".{LOCK_FILE}-{uuid.uuid4().hex}"
        try:
            self._file.rename(aside)
        except FileNotFoundError:
            return
        if _read(aside) == stale:
            aside.unlink()
        else:
            aside.rename(self._file)

    def _is_dead(self, found: dict[str, Any]) -> bool:
        """Return True if the holder is dead, False if it has released the lock meanwhile.

        Raises:
          UserError: the holder is alive.
        """
        kernel = _kernel()
        if kernel is not None and found.get("kernel") == kernel:
            started = _started(found.get("pid"))
            if started is not None and started == found.get("started"):
                raise self._in_use(found)
            return True
        _LOG.warning(
            f"The workdir {self._workdir} is locked by {_holder(found)}; waiting "
            f"{STALE_SECONDS:.0f} s to check whether that process is alive."
        )
        end = time.monotonic() + STALE_SECONDS
        while time.monotonic() < end:
            time.sleep(STALE_SECONDS / 60)
            now = _read(self._file)
            if now is None:
                return False
            if now != found:
                raise self._in_use(now)
        return True

    def _in_use(self, found: dict[str, Any]) -> UserError:
        return UserError(
            f"The workdir {self._workdir} is in use by {_holder(found)}; wait until it ends, "
            "stop it, or give another --workdir."
        )

    def _is_mine(self, found: dict[str, Any] | None) -> bool:
        return found is not None and found.get("token") == self._mine["token"]

    def _keep_beating(self) -> None:
        while not self._released.wait(BEAT_SECONDS):
            try:
                found = _read(self._file)
                if found is None:
                    continue  # the mount may be lost: do not write to the disk under it
                if found and not self._is_mine(found):
                    self._leave(found)
                self._mine["beat"] += 1
                atomic.write(self._file, json.dumps(self._mine))
            except OSError:
                continue  # the disk may be full or unavailable for a while: keep running

    def _leave(self, found: dict[str, Any]) -> None:
        """End the process, so that its files do not mix with those of the new holder."""
        sys.stdout.flush()
        sentence = (
            f"The workdir {self._workdir} was taken over by {_holder(found)}, because this process "
            f"did not update its lock for {STALE_SECONDS:.0f} s. This process ends; its "
            "checkpoints are kept."
        )
        os.write(2, f"cdt: {sentence}\n".encode())
        os._exit(EXIT_USER_ERROR)


def _holder(found: dict[str, Any]) -> str:
    return f"process {found.get('pid')} on host {found.get('host')}"


def _read(file: epath.Path) -> dict[str, Any] | None:
    """Return the content of a lock file: {} if damaged or incomplete, None if there is none."""
    try:
        found = json.loads(file.read_text())
    except FileNotFoundError:
        return None
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def _kernel() -> str | None:
    """Return an identifier of the kernel since its start and of the process namespace.

    Process numbers are unique within it. None if it cannot be read.
    """
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return None


def _started(pid: Any) -> str | None:
    """Return the start time of a process in kernel ticks, or None if no such process is alive."""
    try:
        # The program name is in parentheses and may contain any character.
        fields = Path(f"/proc/{int(pid)}/stat").read_text().rpartition(")")[2].split()
    except (OSError, ValueError, TypeError):
        return None
    return None if fields[0] in "ZX" else fields[19]  # Z and X: it has ended
