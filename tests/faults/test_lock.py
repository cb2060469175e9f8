"""The lock of a workdir: a second run is refused; the lock of a dead run is taken."""

import json
import os
import subprocess
import sys
import time

import pytest

from cdt.errors import UserError
from cdt.files import atomic
from cdt.workdir import lock
from cdt.workdir.lock import LOCK_FILE, Lock
from front_door import cdt
from host_processes import Processes, training

HOLD = """
import sys, time
from cdt.workdir.lock import Lock
Lock(sys.argv[1]).__enter__()
print("held", flush=True)
time.sleep(300)
"""

HOLD_BEATING = HOLD.replace(
    "Lock(", "import cdt.workdir.lock as lock\nlock.BEAT_SECONDS = 0.1\nLock("
)


@pytest.fixture
def soon(monkeypatch):
    """Shorten the interval of the beats and the time until a lock is stale."""
    monkeypatch.setattr(lock, "BEAT_SECONDS", 0.1)
    monkeypatch.setattr(lock, "STALE_SECONDS", 1.0)


@pytest.fixture
def held(tmp_path):
    """A separate process that holds the lock of `tmp_path`."""
    command = [sys.executable, "-c", HOLD, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "held\n"
        yield process
        process.kill()


def from_another_host(monkeypatch):
    """Make later locks look like those of another host, whose processes cannot be seen."""
    monkeypatch.setattr(lock, "_kernel", lambda: "another")


def content(tmp_path):
    return json.loads((tmp_path / LOCK_FILE).read_text())


def test_a_second_run_is_refused_with_the_first_ones_process(tmp_path, held):
    with pytest.raises(UserError) as error, Lock(tmp_path):
        pass
    assert f"{tmp_path} is in use by process {held.pid} on host " in str(error.value)
    assert content(tmp_path)["pid"] == held.pid


def test_the_lock_of_a_killed_run_is_taken_at_once(tmp_path, held):
    held.kill()  # and not waited for: a zombie process counts as dead
    while lock._started(held.pid):
        time.sleep(0.01)
    before = time.monotonic()
    with Lock(tmp_path):
        assert time.monotonic() - before < lock.STALE_SECONDS / 2
        assert content(tmp_path)["pid"] == os.getpid()
    assert not list(tmp_path.iterdir())


def test_a_reused_process_number_is_detected(tmp_path, held):
    stale = content(tmp_path) | {"started": "1"}
    (tmp_path / LOCK_FILE).write_text(json.dumps(stale))
    with Lock(tmp_path):
        assert content(tmp_path)["pid"] == os.getpid()


def test_another_hosts_run_is_refused_while_it_beats(tmp_path, monkeypatch, soon):
    with Lock(tmp_path):
        from_another_host(monkeypatch)
        with pytest.raises(UserError, match="is in use by process"), Lock(tmp_path):
            pass


@pytest.mark.parametrize("left", ["stale", "damaged", "empty", "no object"])
def test_a_lock_that_does_not_change_is_taken(tmp_path, monkeypatch, soon, caplog, left):
    stale = {"kernel": "another", "host": "gone", "pid": 7, "started": "1", "beat": 3}
    texts = {"stale": json.dumps(stale), "damaged": '{"host": "go', "empty": "", "no object": "[]"}
    (tmp_path / LOCK_FILE).write_text(texts[left])
    before = time.monotonic()
    with Lock(tmp_path):
        assert time.monotonic() - before >= lock.STALE_SECONDS
        assert content(tmp_path)["pid"] == os.getpid()
    assert "waiting 1 s to check whether that process is alive" in caplog.text
    assert not list(tmp_path.iterdir())


def test_a_lock_that_is_released_while_it_is_watched_is_taken(tmp_path, monkeypatch):
    monkeypatch.setattr(lock, "STALE_SECONDS", 60.0)
    (tmp_path / LOCK_FILE).write_text("{}")
    monkeypatch.setattr(lock.time, "sleep", lambda _: (tmp_path / LOCK_FILE).unlink())
    with Lock(tmp_path):
        assert content(tmp_path)["pid"] == os.getpid()


def test_one_of_many_processes_gets_it(tmp_path):
    (tmp_path / "run").mkdir()
    stale = {"kernel": lock._kernel(), "host": "here", "pid": 1, "started": "-1"}
    (tmp_path / "run" / LOCK_FILE).write_text(json.dumps(stale))
    program = HOLD_BEATING.replace("from cdt", "sys.stdin.readline()\nfrom cdt")
    command = [sys.executable, "-c", program, str(tmp_path / "run")]
    pipes = {"stdin": subprocess.PIPE, "stderr": subprocess.DEVNULL}
    processes = [subprocess.Popen(command, **pipes, text=True) for _ in range(4)]
    try:
        for process in processes:
            process.stdin.write("\n")
            process.stdin.flush()
        end = time.monotonic() + 30
        while sum(process.poll() is None for process in processes) > 1:
            assert time.monotonic() < end
            time.sleep(0.05)
        time.sleep(0.5)  # several beats
        (winner,) = (process for process in processes if process.poll() is None)
        assert content(tmp_path / "run")["pid"] == winner.pid
    finally:
        for process in processes:
            process.kill()
            process.communicate()


def test_a_run_whose_lock_was_taken_ends(tmp_path):
    command = [sys.executable, "-c", HOLD_BEATING, str(tmp_path)]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout.readline() == "held\n"
        taken = content(tmp_path) | {"token": "another", "host": "elsewhere", "pid": 8}
        while process.poll() is None:  # again where a beat crossed it
            atomic.write(tmp_path / LOCK_FILE, json.dumps(taken))
            time.sleep(0.05)
        _, errors = process.communicate(timeout=30)
    assert process.returncode == 2
    assert "was taken over by process 8 on host elsewhere" in errors
    assert content(tmp_path) == taken


def test_a_lock_that_vanished_is_not_written_again(tmp_path, soon):
    with Lock(tmp_path):
        while not content(tmp_path)["beat"]:
            time.sleep(0.01)
        (tmp_path / LOCK_FILE).unlink()
        time.sleep(0.5)
        assert not list(tmp_path.iterdir())


def test_in_a_bucket_without_atomic_creation(tmp_path):
    first, second = Lock(tmp_path), Lock(tmp_path)
    first._local = second._local = False
    with first:
        with pytest.raises(UserError, match="is in use by process"), second:
            pass
        assert content(tmp_path)["token"] == first._mine["token"]
    assert not list(tmp_path.iterdir())


def test_an_empty_new_workdir_is_removed_and_a_file_is_refused(tmp_path):
    with pytest.raises(ZeroDivisionError), Lock(tmp_path / "new"):
        _ = 1 / 0
    assert not (tmp_path / "new").exists()
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be written"), Lock(tmp_path / "file"):
        pass


@pytest.mark.parametrize(
    ("mode", "words"),
    [
        ("train", "in use by process {pid} on host"),
        ("difficulty", "in use by process {pid} on host"),
        ("sample", "train first"),
    ],
)
def test_modes_that_write_ask_for_the_lock(tmp_path, mode, words):
    command = training(tmp_path / "run", tmp_path / "cache", f"--mode={mode}")
    with Lock(tmp_path / "run"):
        refused = cdt(*command[2:])
    assert refused.returncode == 2, refused.stderr
    (sentence,) = (line for line in refused.stderr.splitlines() if line.startswith("cdt: "))
    assert words.format(pid=os.getpid()) in sentence
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
@pytest.mark.parametrize("count", [1, 2])
def test_a_second_command_is_refused_and_reading_is_allowed(tmp_path, count):
    workdir, cache = tmp_path / "run", tmp_path / "cache"
    long = training(workdir, cache, "--config.train.duration=100_000 steps")
    with Processes(long, count, tmp_path / "first") as first:
        while not any(path.name.isdecimal() for path in workdir.glob("checkpoints/*")):
            assert first.processes[0].poll() is None, first.err(0)
            time.sleep(0.05)
        with Processes(long, count, tmp_path / "second") as second:
            assert second.wait() == [2] * count, second.err(0)
            for k in range(count):
                (sentence,) = second.sentences(k)
                assert f"is in use by process {first.processes[0].pid} on host" in sentence
        with Processes([*long, "--mode=sample"], 1, tmp_path / "reader") as reader:
            assert reader.wait() == [0], reader.err(0)
        assert first.processes[0].poll() is None
    # Both were killed, and the next run does not wait.
    with Processes(training(workdir, cache), count, tmp_path / "third") as third:
        assert third.wait() == [0] * count, third.err(0)
    assert "finished already" in third.out(0) and not (workdir / LOCK_FILE).exists()
