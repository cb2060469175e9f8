"""The end of several processes: stopped, lost, or started with errors."""

import signal
import time

import numpy as np
import pytest

from host_processes import Processes, free_port, training

HEARTBEAT = 10  # seconds


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


def endless(tmp_path, cache):
    """Two processes that train, from some step on."""
    command = training(
        tmp_path / "run", cache, "--config.train.duration=100_000 steps",
        f"--heartbeat_seconds={HEARTBEAT}",
    )  # fmt: skip
    return Processes(command, 2, tmp_path / "output")


# A killed process closes its connections. A frozen one does not, like a host without power.
@pytest.mark.slow
@pytest.mark.parametrize(("victim", "number"), [(0, signal.SIGKILL), (1, signal.SIGSTOP)])
def test_when_a_process_is_lost_the_other_ends(tmp_path, cache, victim, number):
    with endless(tmp_path, cache) as processes:
        processes.wait_for("step 1/")
        processes.send(number, victim)
        began = time.monotonic()
        assert processes.processes[1 - victim].wait(timeout=60) == 75
        assert time.monotonic() - began < HEARTBEAT + 10
        (sentence,) = processes.sentences(1 - victim)
        assert "Another process of the run was lost" in sentence
        assert "Traceback" not in processes.err(1 - victim)


def test_different_configs_are_named_by_all(tmp_path, cache):
    command = training(tmp_path / "run", cache)
    extra = {0: ["--config.optim.lr=0.5"], 1: ["--config.optim.lr=0.25"]}
    with Processes(command, 2, tmp_path / "output", extra=extra) as processes:
        assert processes.wait() == [2, 2]
        for k in range(2):
            (sentence,) = processes.sentences(k)
            assert "config.optim.lr (0.5 on process 0 and 0.25 on process 1)" in sentence
            assert "--workdir" not in sentence
    assert not (tmp_path / "run").exists()


def test_what_one_process_lacks_stops_all(tmp_path, cache):
    with np.load(_digits(tmp_path)) as arrays:
        assert arrays["train_images"].shape[1:] == (8, 8, 1)
    command = training(
        tmp_path / "run", cache, "--config.data.name=npz", "--config.data.path=digits.npz"
    )
    (tmp_path / "elsewhere").mkdir()
    cwds = {0: tmp_path, 1: tmp_path / "elsewhere"}
    with Processes(command, 2, tmp_path / "output", cwds=cwds) as processes:
        assert processes.wait() == [2, 2]
        (whole,), (own,) = processes.sentences(0), processes.sentences(1)
        assert "digits.npz" in own and whole == f"Process 1 has stopped: {own}"


def test_an_unreachable_coordinator_is_named(tmp_path, cache):
    command = [*training(tmp_path / "run", cache), "--connect_seconds=2"]
    address = f"--coordinator=127.0.0.1:{free_port()}"
    with Processes(
        [*command, address, "--num_processes=2", "--process_id=1"], 1, tmp_path / "output"
    ) as processes:
        assert processes.wait() == [2]
        (sentence,) = processes.sentences(0)
        assert address.partition("=")[2] in sentence and "2 seconds" in sentence


def test_a_mode_of_one_process_refuses_several(tmp_path, cache):
    command = [*training(tmp_path / "run", cache), "--mode=compare"]
    with Processes(command, 2, tmp_path / "output") as processes:
        assert processes.wait() == [2, 2]
        assert all("runs in one process" in processes.sentences(k)[0] for k in range(2))


def _digits(folder):
    images = np.zeros((64, 8, 8, 1), np.uint8)
    labels = np.arange(64) % 10
    np.savez(
        folder / "digits.npz",
        train_images=images, train_labels=labels, test_images=images, test_labels=labels,
    )  # fmt: skip
    return folder / "digits.npz"
