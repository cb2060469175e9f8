"""Failing storage: one sentence, earlier checkpoints intact, the run continues or stops."""

import contextlib
import errno
import gc
import logging
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from etils import epath

from cdt.errors import UserError
from cdt.modes import train as loop
from cdt.monitoring.progress import Progress
from cdt.monitoring.writers import read_history
from cdt.workdir import checkpoint
from cdt.workdir.checkpoint import Checkpointer, NotSaved
from cpu_devices import xla_flags
from smoke_runs import arrays, assert_same_arrays, smoke

ROOT = Path(__file__).parents[2]
slow = pytest.mark.slow
TOLD = r"step {} could not be written to .* earlier checkpoints are intact"


def make_items(step):
    """Some megabytes, so that a save takes a while; every step has other values."""
    key = jax.random.key(step)
    return {
        name: {str(k): jax.random.normal(jax.random.fold_in(key, k), (99, 199)) for k in range(9)}
        for name in ("params", "ema", "opt")
    } | {"counters": {"step": jnp.int32(step)}}


def assert_restored(directory, step):
    """The newest checkpoint is `step`, bitwise."""
    expected = make_items(step)
    found, items, _ = Checkpointer(directory, keep=9).restore_items(
        jax.eval_shape(lambda: make_items(0))
    )
    assert found == step
    jax.tree.map(np.testing.assert_array_equal, items, expected)


# --- Faults that need no root -----------------------------------------------------------------


@contextlib.contextmanager
def something_else_there(directory):
    """Replace the folder by a file, which also stops root."""
    away = directory.with_name("away")
    directory.rename(away)
    directory.write_bytes(b"")
    yield
    directory.unlink()
    away.rename(directory)


@contextlib.contextmanager
def mount_lost(directory):
    """Remove the folder; a new one could be created in its place."""
    away = directory.with_name("away")
    directory.rename(away)
    yield
    assert not directory.exists()  # it would be on another disk
    away.rename(directory)


@contextlib.contextmanager
def small_files_only(directory):
    """Limit files to 256 bytes, which has the effect of a full disk on open files."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (256, limits[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    signal.signal(signal.SIGXFSZ, handler)


@pytest.mark.long  # waits for retries; failing in the background is tested below
@pytest.mark.parametrize(
    "fault",
    [
        pytest.param(something_else_there, marks=slow),
        pytest.param(mount_lost, marks=slow),
        small_files_only,
    ],
)
def test_failed_saves_are_reported_soon_and_later_ones_work(tmp_path, fault):
    directory = tmp_path / "checkpoints"
    checkpoints = Checkpointer(directory, keep=9)
    checkpoints.save(1, make_items(1), {})
    checkpoints.wait()
    before = {p: p.read_bytes() for p in directory.rglob("*") if p.is_file()}
    began = time.monotonic()
    with fault(directory):
        for step in (2, 3):
            with pytest.raises(NotSaved, match=TOLD.format(step)):
                checkpoints.save(step, make_items(step), {})
                checkpoints.wait()
    assert time.monotonic() < began + 30.0
    assert before == {p: p.read_bytes() for p in directory.rglob("*") if p.is_file()}
    for step in (3, 4):  # a step that failed may be saved again
        checkpoints.save(step, make_items(step), {})
    checkpoints.wait()
    checkpoints.close()
    assert sorted(path.name for path in directory.iterdir()) == ["1", "3", "4"]
    assert_restored(directory, 4)
    gc.collect()  # so that what is said of Orbax's abandoned tasks is said here


def test_a_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "file").write_bytes(b"")
    checkpoints = Checkpointer(tmp_path / "file" / "checkpoints", keep=9)
    with pytest.raises(NotSaved, match=TOLD.format(1)):
        checkpoints.save(1, make_items(1), {})
    checkpoints.close()


@pytest.mark.long  # waits for retries
def test_a_mount_lost_in_the_middle_of_a_save(tmp_path):
    """TensorStore creates the folders of its files again; no checkpoint may be written there."""
    directory = tmp_path / "checkpoints"
    checkpoints = Checkpointer(directory, keep=9)
    checkpoints.save(1, make_items(1), {})
    checkpoints.wait()
    checkpoints.save(2, make_items(2), {})
    directory.rename(tmp_path / "away")
    with contextlib.suppress(NotSaved):  # it may have been quicker
        checkpoints.wait()
    directory.mkdir(exist_ok=True)
    with pytest.raises(NotSaved, match="step 3 .*folder was replaced or its disk unmounted"):
        checkpoints.save(3, make_items(3), {})
    shutil.rmtree(directory)
    (tmp_path / "away").rename(directory)
    checkpoints.save(4, make_items(4), {})
    checkpoints.wait()
    checkpoints.close()
    assert_restored(directory, 4)


def test_a_save_fails_in_the_background_and_the_next_is_not_harmed(tmp_path, monkeypatch):
    def refuse(path, target):
        raise OSError(5, "Input/output error")

    checkpoints = Checkpointer(tmp_path / "checkpoints", keep=9)
    with monkeypatch.context() as patch:
        patch.setattr(type(epath.Path(tmp_path)), "rename", refuse)  # by which Orbax commits
        checkpoints.save(1, make_items(1), {})
        with pytest.raises(NotSaved, match="step 1 .*Input/output error"):
            checkpoints.wait()
    checkpoints.wait()  # it is reported once
    checkpoints.save(2, make_items(2), {})
    checkpoints.wait()
    checkpoints.close()
    assert_restored(tmp_path / "checkpoints", 2)


def test_closing_logs_a_failed_save_and_raises_nothing(tmp_path, monkeypatch, caplog):
    def refuse(path, target):
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(type(epath.Path(tmp_path)), "rename", refuse)
    checkpoints = Checkpointer(tmp_path / "checkpoints", keep=9)
    checkpoints.save(1, make_items(1), {})
    checkpoints.close()
    assert [r.getMessage() for r in caplog.records if "step 1 could not be" in r.getMessage()]


@pytest.mark.long  # waits
def test_a_save_slower_than_its_interval_is_waited_for_and_logged(tmp_path, monkeypatch, caplog):
    def slowly(path, target):  # once for the step, and for each of its items
        time.sleep(0.2)
        return Path(path).rename(target)

    monkeypatch.setattr(type(epath.Path(tmp_path)), "rename", slowly)
    monkeypatch.setattr(checkpoint, "_LONG_WAIT", 0.5)
    checkpoints = Checkpointer(tmp_path / "checkpoints", keep=9)
    for step in (1, 2):
        checkpoints.save(step, make_items(step), {})
    checkpoints.wait()
    checkpoints.close()
    assert sorted(p.name for p in (tmp_path / "checkpoints").iterdir()) == ["1", "2"]
    lines = [r.getMessage() for r in caplog.records if r.levelno == logging.WARNING]
    assert len(lines) == 1 and "s until the checkpoint of step 1 was written" in lines[0]


# --- Faults of real file systems, in a separate process -----------------------------------------

PROGRAM = """
import os, subprocess, sys
sys.path.insert(0, sys.argv[1])
import jax
from cdt.workdir.checkpoint import Checkpointer, NotSaved
from test_storage import assert_restored, make_items
fault, folder = sys.argv[2:]
if fault == "full":
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=7m", "tmpfs", folder], check=True)
directory = folder + "/checkpoints"
checkpoints = Checkpointer(directory, keep=2)
checkpoints.save(1, make_items(1), {})
checkpoints.wait()
if fault == "full":
    filling = os.open(folder + "/filling", os.O_CREAT | os.O_WRONLY)
    disk = os.statvfs(folder)
    os.posix_fallocate(filling, 0, disk.f_bavail * disk.f_frsize - 1_000_000)
    os.close(filling)
else:
    subprocess.run(["mount", "--bind", "-o", "ro", directory, directory], check=True)
for step in (2, 3, 4):
    try:
        checkpoints.save(step, make_items(step), {})
        checkpoints.wait()
    except NotSaved as error:
        print(error)
assert_restored(directory, 1)
assert os.listdir(directory) == ["1"], os.listdir(directory)
if fault == "full":
    os.unlink(folder + "/filling")
else:
    subprocess.run(["umount", directory], check=True)
checkpoints.save(5, make_items(5), {})
checkpoints.wait()
assert_restored(directory, 5)
checkpoints.close()
"""
CAN_MOUNT = (
    shutil.which("unshare") is not None
    and not subprocess.run(
        ["unshare", "--mount", "true"], check=False, capture_output=True
    ).returncode
)
needs_mounts = pytest.mark.skipif(not CAN_MOUNT, reason="mounting a small disk needs rights")


@pytest.mark.long  # a program on a full disk
@needs_mounts
@pytest.mark.parametrize(
    ("fault", "number"),
    [("full", errno.ENOSPC), pytest.param("read-only", errno.EROFS, marks=slow)],
)
def test_the_user_sees_one_sentence_and_nothing_else(tmp_path, fault, number):
    apart, reason = ["unshare", "--mount"], os.strerror(number)
    done = subprocess.run(
        [*apart, sys.executable, "-c", PROGRAM, str(Path(__file__).parent), fault, str(tmp_path)],
        capture_output=True, text=True, check=False, timeout=120,
        env=os.environ | {"PYTHONPATH": f"{ROOT}:{ROOT}/tests"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    lines = done.stdout.splitlines()
    assert len(lines) == 3
    for step, line in zip((2, 3, 4), lines, strict=True):
        assert line == (
            f"The checkpoint of step {step} could not be written to {tmp_path}/checkpoints "
            f"({reason}); earlier checkpoints are intact; free disk space or fix the "
            "folder, then run the same command again."
        )


# --- Whole runs ---------------------------------------------------------------------------------

EVERY = {"checkpoint.every": "6 steps"}


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("undisturbed")
    assert loop.train(smoke(**EVERY), str(workdir)) == 0
    return arrays(workdir)


def away_between(monkeypatch, workdir, lost, back):
    """Remove the folder of checkpoints between the end of one step and the end of another."""
    here, away = workdir / "checkpoints", workdir / "away"

    def update(progress, done, **kwargs):
        if done == lost and not away.exists():
            while not (here / "6").exists():  # it is being written
                time.sleep(0.01)
            here.rename(away)
        if done == back and away.exists():
            away.rename(here)

    monkeypatch.setattr(Progress, "update", update)


def warnings_of(caplog):
    return [r.getMessage() for r in caplog.records if r.levelno >= logging.WARNING]


@slow
def test_a_run_continues_while_its_checkpoint_folder_is_missing(
    undisturbed, tmp_path, monkeypatch, caplog
):
    away_between(monkeypatch, tmp_path, 8, 20)
    assert loop.train(smoke(**EVERY), str(tmp_path)) == 0
    lines = warnings_of(caplog)
    assert len(lines) == 2
    for step, line in zip((12, 18), lines, strict=True):
        assert f"step {step} could not be written" in line and "Training continues" in line
    kept = {path.name for path in (tmp_path / "checkpoints").iterdir()}
    assert kept == {"6", "24"}
    assert_same_arrays(arrays(tmp_path), undisturbed)


@slow
@pytest.mark.parametrize(("on_failure", "step"), [("stop", 12), ("continue", 24)])
def test_a_run_that_cannot_save_ends_with_a_fix(
    undisturbed, tmp_path, monkeypatch, on_failure, step
):
    config = smoke(**EVERY, **{"checkpoint.on_failure": on_failure})
    with monkeypatch.context() as patch:
        away_between(patch, tmp_path, 8, None)
        with pytest.raises(
            UserError, match=f"{TOLD.format(step)}; free disk space .* same command"
        ):
            loop.train(config, str(tmp_path))
    assert not (tmp_path / "checkpoints").exists()
    (tmp_path / "away").rename(tmp_path / "checkpoints")
    assert loop.train(config, str(tmp_path)) == 0
    assert_same_arrays(arrays(tmp_path), undisturbed)


def test_on_failure_is_checked(tmp_path):
    with pytest.raises(UserError, match="config.checkpoint.on_failure is 'ignore'; it must be one"):
        loop.train(smoke(**{"checkpoint.on_failure": "ignore"}), str(tmp_path))


@slow
def test_a_run_without_metrics_ends_well(undisturbed, tmp_path, monkeypatch, caplog):
    """Checkpoints were written but no line of metrics.jsonl, so there is no report."""

    def refuse(lines, line):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("cdt.monitoring.writers._LocalLines.write", refuse)
    assert loop.train(smoke(**EVERY), str(tmp_path)) == 0
    lines = warnings_of(caplog)
    assert len(lines) == 2 and "Metrics cannot be written" in lines[0]
    assert "finished and is saved, but its report cannot be written" in lines[1]
    assert_same_arrays(arrays(tmp_path), undisturbed)


@slow
@pytest.mark.parametrize(("mode", "folder"), [("sample", "samples"), ("evaluate", "evaluations")])
def test_results_that_cannot_be_written_are_reported(tmp_path, mode, folder):
    workdir = tmp_path / "run"
    assert loop.train(smoke(), str(workdir)) == 0
    shutil.rmtree(workdir / folder, ignore_errors=True)
    (workdir / folder).write_text("")
    done = subprocess.run(
        [sys.executable, "-m", "cdt.main", "--config=configs/digits.py:smoke", f"--mode={mode}",
         f"--workdir={workdir}"],
        cwd=ROOT, capture_output=True, text=True, check=False, timeout=120,
        env=os.environ | {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": xla_flags(8)},
    )  # fmt: skip
    assert done.returncode == 2, done.stderr
    line = done.stderr.splitlines()[-1]
    assert line.startswith(f"cdt: {workdir / folder}") and "run the same command again" in line


FULL_DISK = """
mount -t tmpfs -o size=2600k tmpfs "$1" && cd "$2" || exit 9
run() { "$3" -m cdt.main --config=configs/digits.py:smoke --workdir="$1/run" \
    --config.checkpoint.every="6 steps"; }
run "$@"; echo "exit code $?"
mount -o remount,size=9m "$1"
run "$@"; echo "exit code $?"
cp -r "$1/run" "$4"
"""


@slow
@needs_mounts
def test_the_program_on_a_disk_that_is_full(undisturbed, tmp_path):
    """Run the same command twice, the second time with free space."""
    disk, kept = tmp_path / "disk", tmp_path / "kept"
    disk.mkdir()
    command = ["unshare", "--mount", "bash", "-c", FULL_DISK, "bash"]
    done = subprocess.run(
        [*command, str(disk), str(ROOT), sys.executable, str(kept)],
        capture_output=True, text=True, check=False, timeout=300,
        env=os.environ | {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": xla_flags(8)},
    )  # fmt: skip
    assert re.findall("exit code .*", done.stdout) == ["exit code 2", "exit code 0"], done.stderr
    assert "resuming at step 6 of 24" in done.stdout or "resuming at step 12" in done.stdout
    assert "Traceback" not in done.stderr and "RESOURCE" not in done.stderr
    lines = [x for x in done.stderr.splitlines() if not x.startswith("step ")]
    (last,) = [x for x in lines if x.startswith("cdt: ")]
    assert "step 24 could not be written" in last and os.strerror(errno.ENOSPC) in last
    others = {line.partition(" could")[0] for line in lines if "Training continues" in line}
    assert "The checkpoint of step 18" in others
    assert_same_arrays(arrays(kept), undisturbed)
    assert [r["step"] for r in read_history(kept) if "loss" in r] == [6, 12, 18, 24]


TWO_ON_A_FULL_DISK = """
import os, signal, subprocess, sys, time
from pathlib import Path
from host_processes import Processes, training
disk, output = map(Path, sys.argv[1:])
subprocess.run(["mount", "-t", "tmpfs", "-o", "size=5m", "tmpfs", disk], check=True)
command = training(
    disk / "run", output / "cache", "--config.train.duration=100_000 steps",
    "--config.checkpoint.every=50 steps", "--config.log.every=50 steps",
    "--config.validation.every=100_000 steps", "--config.sample.every=100_000 steps",
)
with Processes(command, 2, output) as processes:
    processes.wait_for("step 1/")
    while not (disk / "run" / "checkpoints" / "50").exists():
        time.sleep(0.01)
    filling = os.open(disk / "filling", os.O_CREAT | os.O_WRONLY)
    free = os.statvfs(disk)
    os.posix_fallocate(filling, 0, free.f_bavail * free.f_frsize - 100_000)
    os.close(filling)
    processes.wait_for("Training continues")
    os.unlink(disk / "filling")
    saved = {path.name for path in (disk / "run" / "checkpoints").iterdir()}
    while len({p.name for p in (disk / "run" / "checkpoints").iterdir()} - saved) < 2:
        time.sleep(0.1)
    processes.send(signal.SIGTERM, 1)
    assert processes.wait() == [75, 75]
    assert "saved at step" in processes.out(0)
"""


@slow
@needs_mounts
def test_two_processes_continue_together_on_a_full_disk(tmp_path):
    (tmp_path / "disk").mkdir()
    done = subprocess.run(
        ["unshare", "--mount", sys.executable, "-c", TWO_ON_A_FULL_DISK,
         str(tmp_path / "disk"), str(tmp_path / "output")],
        capture_output=True, text=True, check=False, timeout=300,
        env=os.environ | {"PYTHONPATH": f"{ROOT}:{ROOT}/tests"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    told = (tmp_path / "output" / "err0").read_text()
    lines = [x for x in told.splitlines() if "could not be written" in x]
    assert 1 <= len(lines) <= 2  # the save in progress, and the one after it
    assert all(os.strerror(errno.ENOSPC) in x for x in lines)
    assert (tmp_path / "output" / "err1").read_text() == ""
