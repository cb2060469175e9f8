"""One run on several processes, on one or several hosts: they join, stop and end together.

JAX notices a lost process: either a collective fails because its connection closes, or heartbeats
are missing and JAX's runtime aborts the remaining processes. Both become one message and exit code
75.
"""

import contextlib
import ctypes
import logging
import os
import re
import signal
import socket
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import jax
from jax.experimental import multihost_utils

from cdt.devices import launcher
from cdt.devices.agreement import gather
from cdt.devices.signals import StopRequest
from cdt.errors import EXIT_CRASHED, EXIT_STOPPED, EXIT_USER_ERROR, UserError

# Timeout of the barrier at the end. It waits only if one process alone found an error, because the
# processes have synchronized before.
_SHUTDOWN_SECONDS = 10

_LOST = (
    "Another process of the run was lost (its own output has the reason); run the same command "
    "again on all hosts to resume from the last checkpoint."
)
_SIGNS_OF_LOSS = re.compile(
    r"gloo|nccl|connection (closed|reset|refused)|socket closed|heartbeat|coordination", re.I
)

# Exit code and message for an abort by JAX's runtime at this point of the program.
_meaning = (EXIT_STOPPED, _LOST)


def join(
    coordinator: str | None,
    num_processes: int | None,
    process_id: int | None,
    *,
    connect_seconds: int,
    heartbeat_seconds: int,
    stops_together: bool,
) -> None:
    """Join the other processes of the run, if there are any; call it before JAX uses a device.

    Give the first three arguments together, or none: then they come from the cluster's environment
    (`cdt.devices.launcher`). `num_processes` 1 alone means a single process.

    Args:
      coordinator: host:port where process 0 listens.
      num_processes: number of processes of the run.
      process_id: number of this process, in [0, num_processes).
      connect_seconds: how long the processes wait for each other, > 0.
      heartbeat_seconds: seconds without a heartbeat after which a process counts as lost, > 0.
      stops_together: whether `Stop` handles SIGTERM; otherwise SIGTERM ends the process.

    Raises:
      UserError: the arguments do not fit together, or the processes did not reach each other.
    """
    for name, seconds in [("connect", connect_seconds), ("heartbeat", heartbeat_seconds)]:
        if seconds < 1:
            raise UserError(f"--{name}_seconds is {seconds}; it must be at least 1.")
    local_devices: list[int] | None = None
    explicit = (coordinator, num_processes, process_id) != (None, None, None)
    if explicit:
        if (coordinator, num_processes, process_id) == (None, 1, None):
            return
        _check(coordinator, num_processes, process_id)
        if coordinator and process_id:
            _reach(coordinator, connect_seconds)
        others = f"the coordinator {coordinator}"
    else:
        found = launcher.name()
        if found is None:
            return
        others = f"each other at the addresses from {found}"
        if launcher.one_task_a_node():
            local_devices = []  # otherwise JAX gives the task one GPU of its node

    _explain_aborts()
    _expect_abort(
        EXIT_USER_ERROR,
        f"The processes did not all reach {others} within {connect_seconds} seconds; start all of "
        "them with the same command at the same time, or increase --connect_seconds.",
    )
    jax.config.update("jax_enable_preemption_service", stops_together)
    try:
        jax.distributed.initialize(
            coordinator, num_processes, process_id, local_devices,
            cluster_detection_method="deactivate" if explicit else None,
            initialization_timeout=connect_seconds,
            heartbeat_timeout_seconds=heartbeat_seconds,
            shutdown_timeout_seconds=_SHUTDOWN_SECONDS,
        )  # fmt: skip
    except (ValueError, RuntimeError) as error:
        raise UserError(
            f"The processes cannot reach {others} (JAX: {' '.join(str(error).split())}); give "
            "--coordinator, --num_processes and --process_id, or --num_processes=1 for a single "
            "process."
        ) from None
    _expect_abort(EXIT_STOPPED, _LOST)
    if jax.process_index() > 0:
        # Process 0 alone prints results and messages; warnings and errors come from every process.
        logging.getLogger("cdt").setLevel(logging.WARNING)
        sys.stdout.flush()
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _check(coordinator: str | None, num_processes: int | None, process_id: int | None) -> None:
    if coordinator is None or num_processes is None or process_id is None:
        raise UserError(
            f"--coordinator, --num_processes and --process_id are {coordinator}, {num_processes} "
            f"and {process_id}; give all three or none."
        )
    host, _, port = coordinator.rpartition(":")
    if not host or not port.isdecimal():
        raise UserError(f"--coordinator is '{coordinator}'; give it as HOST:PORT.")
    if not 0 <= process_id < num_processes:
        raise UserError(
            f"--process_id is {process_id}; with --num_processes={num_processes} it must lie in "
            f"[0, {num_processes})."
        )


def _reach(coordinator: str, seconds: float) -> None:
    """Wait until the coordinator listens; otherwise JAX's client would abort the process."""
    host, _, port = coordinator.rpartition(":")
    end = time.monotonic() + seconds
    while True:
        try:
            socket.create_connection((host.strip("[]"), int(port)), timeout=5).close()
            return
        except OSError as error:
            if time.monotonic() > end:
                raise UserError(
                    f"The coordinator {coordinator} was not reached within {seconds} seconds "
                    f"({error}); start process 0 there, fix --coordinator, or increase "
                    "--connect_seconds."
                ) from None
            time.sleep(0.2)


def several() -> bool:
    """Return whether the run has more than one process."""
    return jax.distributed.is_initialized() and jax.process_count() > 1


@contextmanager
def together() -> Iterator[None]:
    """A context that all processes leave together; an error in one of them ends all.

    Raises:
      UserError: raised in the body. Any other exception ends a process of several at once.
    """
    try:
        yield
        gather(None)
    except BaseException as error:
        if not jax.distributed.is_initialized():
            raise
        if _is_loss(error):
            _exit(EXIT_STOPPED, _LOST)
        if not isinstance(error, UserError):
            # Skip JAX's barrier at exit, which the other processes may never reach.
            traceback.print_exception(error)
            _exit(EXIT_CRASHED, "This process has failed; the other processes of the run end too.")
        _expect_abort(EXIT_USER_ERROR, str(error))
        jax.distributed.shutdown()
        raise
    jax.distributed.shutdown()


class Stop(StopRequest):
    """A `StopRequest` for all processes of a run: a signal to one stops all after the same step.

    JAX's own handler of SIGTERM notifies the other processes but ignores a second signal. So it is
    replaced, and called for the first signal.
    """

    def __enter__(self) -> "Stop":
        self._several = several()
        if self._several:
            self._handler_of_jax = _handler_in_c(signal.SIGTERM)
        super().__enter__()
        return self

    def __exit__(self, *exception: object) -> None:
        super().__exit__(*exception)
        if self._several:
            ctypes.CDLL(None).signal(signal.SIGTERM, self._handler_of_jax)

    def after(self, step: int) -> bool:
        """Return whether to stop after this step; call it after every step."""
        if self._several:
            return multihost_utils.reached_preemption_sync_point(step)
        return self.requested

    def _pass_on(self) -> None:
        if self._several:
            self._handler_of_jax(signal.SIGTERM)


def _handler_in_c(number: signal.Signals) -> Callable[[int], None]:
    """Return the handler of a signal that a library has installed in C."""
    action = ctypes.create_string_buffer(256)  # a struct sigaction, which begins with the handler
    ctypes.CDLL(None).sigaction(int(number), None, action)
    return ctypes.CFUNCTYPE(None, ctypes.c_int).from_buffer_copy(action)


def _is_loss(error: BaseException | None) -> bool:
    """Return whether the error or one of its causes is a failed collective."""
    while error is not None:
        kinds = (ValueError, jax.errors.JaxRuntimeError)
        if isinstance(error, kinds) and _SIGNS_OF_LOSS.search(str(error)):
            return True
        error = error.__cause__ or error.__context__
    return False


def _exit(code: int, sentence: str) -> None:
    sys.stdout.flush()
    with contextlib.suppress(OSError):
        os.write(2, f"cdt: {sentence}\n".encode())
    os._exit(code)


def _expect_abort(code: int, sentence: str) -> None:
    global _meaning
    _meaning = code, sentence


def _explain_aborts() -> None:
    """Print a message and exit when JAX's runtime aborts the process; it has no other hook."""
    ctypes.CDLL(None).signal(signal.SIGABRT, _on_abort)


@ctypes.CFUNCTYPE(None, ctypes.c_int)
def _on_abort(number: int) -> None:
    # Not a Python signal handler: that would wait for the main thread.
    code, sentence = _meaning
    own_thread = threading.get_ident() in {thread.ident for thread in threading.enumerate()}
    # JAX's runtime aborts in its own threads. An abort in a Python thread is a crash and stays one.
    if code != EXIT_STOPPED or not own_thread:
        with contextlib.suppress(OSError):
            os.write(2, f"cdt: {sentence}\n".encode())
        os._exit(code)
