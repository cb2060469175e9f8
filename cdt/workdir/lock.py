"""One run at a time writes in a workdir.

A run holds `lock.json`: its host, its process, and a beat that it changes every ten seconds. Who
finds one there judges whether its holder lives:

- of processes under the same kernel, `/proc` knows. A number may belong to another process by now,
  so the time of its start is compared too.
- of another host's nothing shows but the beat. Where it has not changed for a minute, the host is
  taken to be gone. Nothing depends on clocks that agree.

So a run that was killed starts again at once on its host, and after a minute on another, without a
person. Should a lock be taken from a run that lives (it was frozen for more than a minute, or two
started in the same moment), its next beat finds that, and it ends.
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
    """For the body, no other run may write in the workdir; of several processes 0 holds the lock.

    Raises:
      UserError: a run that lives holds it, or the workdir cannot be written to; on all processes.
    """
    with ExitStack() as stack:
        with errors_of_all():
            if jax.process_index() == 0:
                stack.enter_context(Lock(workdir))
        yield


class Lock:
    """The right to write in a workdir, a context of one process.

    Where a living holder can be told by its beat alone, entering takes up to a minute. A workdir
    that there was none before, and that is empty in the end, is removed again.

    Args:
      workdir: local or gs://; made if needed.
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
                "choose another --workdir or fix its permissions."
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
            _LOG.warning(f"{self._file} cannot be removed ({error}); the next run finds it stale.")

    def _create(self) -> bool:
        """Write the lock where there is none; False where there is one."""
        text = json.dumps(self._mine)
        if self._local:
            try:
                file = open(self._file, "x")  # one of several succeeds, on NFS as well
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
        """Remove the stale lock and no other: another run may have replaced it meanwhile."""
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
        """Whether the holder is no more; False where it has released the lock meanwhile.

        Raises:
          UserError: the holder lives.
        """
        kernel = _kernel()
        if kernel is not None and found.get("kernel") == kernel:
            started = _started(found.get("pid"))
            if started is not None and started == found.get("started"):
                raise self._in_use(found)
            return True
        _LOG.warning(
            f"The workdir {self._workdir} is locked by {_holder(found)}; waiting "
            f"{STALE_SECONDS:.0f} s to see whether it lives."
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
            f"The workdir {self._workdir} is in use by {_holder(found)}; wait until it has ended, "
            "stop it, or give another --workdir."
        )

    def _is_mine(self, found: dict[str, Any] | None) -> bool:
        return found is not None and found.get("token") == self._mine["token"]

    def _keep_beating(self) -> None:
        while not self._released.wait(BEAT_SECONDS):
            try:
                found = _read(self._file)
                if found is None:
                    continue  # where the mount was lost, another disk lies in its place
                if found and not self._is_mine(found):
                    self._leave(found)
                self._mine["beat"] += 1
                atomic.write(self._file, json.dumps(self._mine))
            except OSError:
                continue  # a disk that is full or away for a while ends no run

    def _leave(self, found: dict[str, Any]) -> None:
        """End the process: what it would save now might mix with another's."""
        sys.stdout.flush()
        sentence = (
            f"The workdir {self._workdir} was taken over by {_holder(found)}, as this process had "
            f"shown no life for {STALE_SECONDS:.0f} s; it ends, and what it saved is kept."
        )
        os.write(2, f"cdt: {sentence}\n".encode())
        os._exit(EXIT_USER_ERROR)


def _holder(found: dict[str, Any]) -> str:
    return f"process {found.get('pid')} on host {found.get('host')}"


def _read(file: epath.Path) -> dict[str, Any] | None:
    """What a lock file says; nothing where it is damaged or being written, None where it is not."""
    try:
        found = json.loads(file.read_text())
    except FileNotFoundError:
        return None
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def _kernel() -> str | None:
    """Name what gives out process numbers: the start of a kernel, and a container's share of it.

    None where it cannot be told.
    """
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return None


def _started(pid: Any) -> str | None:
    """When a process started, in ticks of the kernel; None where there is none that lives."""
    try:
        # The name of the program, in brackets, may hold anything.
        fields = Path(f"/proc/{int(pid)}/stat").read_text().rpartition(")")[2].split()
    except (OSError, ValueError, TypeError):
        return None
    return None if fields[0] in "ZX" else fields[19]  # killed, and only its exit code is left
