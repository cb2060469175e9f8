"""Several processes, on one host or on many, as one run: they join, stop and end together.

A lost process is noticed by JAX: a collective fails as its connection closes, or its heartbeats
stay away, and then JAX's runtime aborts every process that is left. Both are turned into one
sentence and exit code 75.
"""

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

# Of the barrier at the end. All have told each other before that they are there, so it waits only
# where one process alone found something wrong.
_SHUTDOWN_SECONDS = 10

_LOST = (
    "Another process of the run was lost (its own output says why); run the same command on all "
    "hosts to go on from the last checkpoint."
)
_SIGNS_OF_LOSS = re.compile(
    r"gloo|nccl|connection (closed|reset|refused)|socket closed|heartbeat|coordination", re.I
)

# What an abort by JAX's runtime means at the moment: exit code and sentence.
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
    """Make this process one of a run's, if there are several; before JAX touches a device.

    Args:
      coordinator: host:port where process 0 listens.
      num_processes: of the run.
      process_id: in [0, num_processes). These three are given all or not at all: then the cluster
        tells them, see `cdt.devices.launcher`. `num_processes` 1, alone, says that there is no
        other.
      connect_seconds: how long the processes wait for each other, > 0.
      heartbeat_seconds: without a sign of life, after which a process counts as lost, > 0.
      stops_together: SIGTERM is for `Stop` to see; otherwise it ends the process.

    Raises:
      UserError: the arguments do not fit each other, or the processes did not find each other.
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
        others = f"each other, as {found} names them,"
        if launcher.one_task_a_node():
            local_devices = []  # JAX would give a task the one GPU that has its number on the node

    _explain_aborts()
    _expect_abort(
        EXIT_USER_ERROR,
        f"The processes did not all reach {others} within {connect_seconds} seconds; start all of "
        "them alike and at the same time, or give a longer --connect_seconds.",
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
            f"The processes cannot join {others} as JAX says: {' '.join(str(error).split())}; "
            "give --coordinator, --num_processes and --process_id, or --num_processes=1 for one "
            "process alone."
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
            "--coordinator, --num_processes and --process_id are given together, or none of them; "
            f"here they are {coordinator}, {num_processes} and {process_id}."
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
    """Return when something listens there. JAX's client would abort where nothing ever does."""
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
                    f"({error}); start process 0 there, fix --coordinator, or give a longer "
                    "--connect_seconds."
                ) from None
            time.sleep(0.2)


def several() -> bool:
    """Whether the run has more processes than this."""
    return jax.distributed.is_initialized() and jax.process_count() > 1


@contextmanager
def together() -> Iterator[None]:
    """What ends one process in the body ends all, and none leaves the body before the others.

    Raises:
      UserError: the body's. Any other exception of one of several processes ends it at once.
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
            # Without JAX's barrier at exit: the others may never come to theirs.
            traceback.print_exception(error)
            _exit(EXIT_CRASHED, "This process has failed, and ends the others of the run.")
        _expect_abort(EXIT_USER_ERROR, str(error))
        jax.distributed.shutdown()
        raise
    jax.distributed.shutdown()


class Stop(StopRequest):
    """As StopRequest, for all processes of a run: a signal to one stops all after the same step.

    JAX's own handler of SIGTERM tells the other processes, and knows no second signal after that:
    so it is replaced, and called for the first.
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
        """Whether to stop after this step; ask after every step."""
        if self._several:
            return multihost_utils.reached_preemption_sync_point(step)
        return self.requested

    def _pass_on(self) -> None:
        if self._several:
            self._handler_of_jax(signal.SIGTERM)


def _handler_in_c(number: signal.Signals) -> Callable[[int], None]:
    """The handler of a signal that a library has installed without Python's knowing."""
    action = ctypes.create_string_buffer(256)  # a struct sigaction, which begins with the handler
    ctypes.CDLL(None).sigaction(int(number), None, action)
    return ctypes.CFUNCTYPE(None, ctypes.c_int).from_buffer_copy(action)


def _is_loss(error: BaseException | None) -> bool:
    """Whether a collective failed, which JAX raises as either type, while handling it or before."""
    while error is not None:
        kinds = (ValueError, jax.errors.JaxRuntimeError)
        if isinstance(error, kinds) and _SIGNS_OF_LOSS.search(str(error)):
            return True
        error = error.__cause__ or error.__context__
    return False


def _exit(code: int, sentence: str) -> None:
    sys.stdout.flush()
    os.write(2, f"cdt: {sentence}\n".encode())
    os._exit(code)


def _expect_abort(code: int, sentence: str) -> None:
    global _meaning
    _meaning = code, sentence


def _explain_aborts() -> None:
    """Make an abort by JAX's runtime, which offers no other door, end with what it means."""
    ctypes.CDLL(None).signal(signal.SIGABRT, _on_abort)


@ctypes.CFUNCTYPE(None, ctypes.c_int)
def _on_abort(number: int) -> None:
    # Not a handler of Python's, which would wait for the main thread to come back.
    code, sentence = _meaning
    own_thread = threading.get_ident() in {thread.ident for thread in threading.enumerate()}
    # The runtime watches from threads of its own; an abort in one of ours is a crash and stays one.
    if code != EXIT_STOPPED or not own_thread:
        os.write(2, f"cdt: {sentence}\n".encode())
        os._exit(code)
