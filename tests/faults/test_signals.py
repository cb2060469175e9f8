"""SIGTERM and SIGINT, to one process or to one of two: the run saves its step and exits with 75."""

import re
import signal
import time

import jax
import jax.numpy as jnp
import pytest

from cdt.devices.signals import StopRequest
from cdt.monitoring.writers import read_history
from cdt.workdir.checkpoint import Checkpointer
from host_processes import Processes, training

SECONDS = 30  # seconds that a preempted machine has
TERM, INT = signal.SIGTERM, signal.SIGINT
slow = pytest.mark.slow


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


def start(tmp_path, cache, count, *arguments, slurm=False):
    """Processes that train without end; the last one gets the signals."""
    command = training(
        tmp_path / "run", cache, "--config.train.duration=100_000 steps",
        "--config.log.every=1 steps", "--heartbeat_seconds=10", *arguments,
    )  # fmt: skip
    return Processes(command, count, tmp_path / "output", slurm=slurm)


def assert_saved(tmp_path, processes, count):
    """Assert that all processes exited with 75 and saved the last finished step."""
    assert processes.wait(timeout=SECONDS) == [75] * count, processes.err(0)
    (step,) = re.findall(r"stopped by a signal and saved at step (\d+);", processes.out(0))
    assert int(step) == read_history(tmp_path / "run")[-1]["step"]
    counter = jax.ShapeDtypeStruct((), jnp.int32)
    counters = {"step": counter, "bad": {"in_a_row": counter, "total": counter}}
    checkpoints = Checkpointer(tmp_path / "run" / "checkpoints", keep=1)
    newest, items, _ = checkpoints.restore_items({"counters": counters})  # by their checksums
    assert newest == int(step) == items["counters"]["step"]
    assert all(processes.out(k) == "" for k in range(1, count))


@pytest.mark.long  # a program
@pytest.mark.parametrize(
    ("count", "number", "slurm"),
    [
        (1, TERM, False),
        pytest.param(1, INT, False, marks=slow),
        pytest.param(2, TERM, False, marks=slow),
        pytest.param(2, INT, False, marks=slow),
        pytest.param(2, TERM, True, marks=slow),
        pytest.param(2, INT, True, marks=slow),
    ],
)
def test_one_signal_saves(tmp_path, cache, count, number, slurm):
    with start(tmp_path, cache, count, slurm=slurm) as processes:
        processes.wait_for("step 1/")
        processes.send(number, count - 1)
        assert_saved(tmp_path, processes, count)


@pytest.mark.long  # a program more
@pytest.mark.parametrize("count", [1, pytest.param(2, marks=slow)])
def test_a_signal_that_comes_twice_at_once_is_one(tmp_path, cache, count):
    with start(tmp_path, cache, count) as processes:
        processes.wait_for("step 1/")
        processes.send(TERM, count - 1)
        time.sleep(0.1)
        processes.send(TERM, count - 1)
        assert_saved(tmp_path, processes, count)


@pytest.mark.long  # a program more
@pytest.mark.parametrize(
    ("count", "number"),
    [(1, TERM), pytest.param(1, INT, marks=slow), pytest.param(2, TERM, marks=slow),
     pytest.param(2, INT, marks=slow)],
)  # fmt: skip
def test_a_second_signal_exits_at_once(tmp_path, cache, count, number):
    # Sampling that takes hours blocks the main thread, so the first signal has no effect yet.
    hours = ["--config.sample.every=1 steps", "--config.sample.steps=10_000_000"]
    with start(tmp_path, cache, count, *hours) as processes:
        processes.wait_for("step 1/")
        time.sleep(1)
        process = processes.processes[count - 1]
        processes.send(number, count - 1)
        time.sleep(1.5)
        assert process.poll() is None
        processes.send(number, count - 1)
        assert process.wait(timeout=SECONDS) == 75
        (sentence,) = processes.sentences(count - 1)
        assert "second signal" in sentence and "run the same command" in sentence
        assert processes.wait(timeout=SECONDS) == [75] * count


@pytest.mark.long  # programs without a compilation cache
@pytest.mark.parametrize(
    ("count", "number"), [(1, TERM), (1, INT), pytest.param(2, TERM, marks=slow)]
)
def test_a_signal_while_compiling_exits_at_once(tmp_path, count, number):
    with start(tmp_path, tmp_path / "empty", count) as processes:
        while not (tmp_path / "run" / "config.json").exists():
            assert processes.processes[0].poll() is None, processes.err(0)
            time.sleep(0.01)
        time.sleep(0.3)
        processes.send(number, count - 1)
        assert processes.processes[count - 1].wait(timeout=SECONDS) == 75
        (sentence,) = processes.sentences(count - 1)
        assert "before the first step" in sentence
        assert "step 1/" not in processes.err(0)
        assert processes.wait(timeout=SECONDS) == [75] * count
    assert not (tmp_path / "run" / "checkpoints").exists()


def test_handlers_are_restored():
    before = [signal.getsignal(number) for number in (TERM, INT)]
    fd = signal.set_wakeup_fd(-1)
    with StopRequest():
        inside = [signal.getsignal(number) for number in (TERM, INT)]
        assert all(a is not b for a, b in zip(inside, before, strict=True))
    assert [signal.getsignal(number) for number in (TERM, INT)] == before
    assert signal.set_wakeup_fd(fd) == -1
