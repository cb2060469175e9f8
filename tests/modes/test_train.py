"""The training loop from end to end, with the variant `smoke` of the shipped configs."""

import gzip
import json
import logging
import os
import re
import shutil
import signal

import jax
import numpy as np
import pytest

from cdt.errors import UserError
from cdt.modes import train as loop
from cdt.monitoring.progress import Progress
from cdt.monitoring.writers import read_history
from cdt.workdir.checkpoint import Checkpointer
from smoke_runs import arrays, assert_same_arrays, smoke


def without_times(records):
    unsteady = {"time", "images_per_second", "data_wait_fraction"}
    return [
        {k: v for k, v in r.items() if k not in unsteady and not k.startswith("goodput/")}
        for r in records
        if "event" not in r
    ]


class StopAt:
    """Send the process a signal when step `step` is counted."""

    def __init__(self, monkeypatch, step, number=signal.SIGTERM):
        def update(progress, done, **kwargs):
            if done == step:
                os.kill(os.getpid(), number)

        monkeypatch.setattr(Progress, "update", update)


class Watched(logging.Handler):
    """A context that records compilations and fetches.

    Attributes: compiled (the messages), fetches.
    """

    def __init__(self):
        super().__init__(logging.WARNING)
        self.compiled, self.fetches = [], 0

    def emit(self, record):
        if "Finished XLA compilation" in record.getMessage():
            self.compiled.append(record.getMessage())

    def __enter__(self):
        fetch, self.patch = loop.fetch, pytest.MonkeyPatch()

        def counted(tree):
            self.fetches += 1
            return fetch(tree)

        self.patch.setattr(loop, "fetch", counted)
        logging.getLogger("jax").addHandler(self)
        jax.config.update("jax_log_compiles", True)  # in all threads; its context is in one
        return self

    def __exit__(self, *exception):
        jax.config.update("jax_log_compiles", False)
        logging.getLogger("jax").removeHandler(self)
        self.patch.undo()


@pytest.fixture(scope="module")
def watched_run(tmp_path_factory):
    """Return (workdir, record) of an uninterrupted run."""
    workdir = tmp_path_factory.mktemp("undisturbed")
    with Watched() as watched:
        assert loop.train(smoke(), str(workdir)) == 0
    return workdir, watched


@pytest.fixture(scope="module")
def undisturbed(watched_run):
    return watched_run[0]


def test_the_step_is_compiled_once_and_fetched_from_only_when_due(watched_run):
    _, watched = watched_run
    steps = [message for message in watched.compiled if "jit(steps)" in message]
    assert len(steps) == 1, watched.compiled
    # 4 logs, 3 validations (0, 12 and 24).
    assert watched.fetches == 4 + 3


def test_files_of_a_run(undisturbed):
    names = {p.name for p in undisturbed.iterdir()}
    assert names >= {"checkpoints", "config.json", "metrics.jsonl", "samples", "convergence.png"}
    grids = sorted(p.name for p in (undisturbed / "samples").iterdir())
    assert grids == ["step_00000012.png", "step_00000024.png"]
    convergence = json.loads((undisturbed / "convergence.json").read_text())
    assert convergence["steps"] == [0, 12, 24]
    assert np.array(convergence["validation_loss"]).shape == (3, 4)
    for row, expected in ((0, 1.0), (-1, 0.0)):
        assert {x for x in convergence["normalised"][row] if x is not None} <= {expected}


def test_metrics_of_a_run(undisturbed):
    history = read_history(undisturbed)
    logged = {r["step"]: r for r in history if "loss" in r}
    assert sorted(logged) == [6, 12, 18, 24]
    expected = {
        "loss", "grad_norm", "param_norm", "learning_rate", "images_per_second", "bad_steps",
        "stage", "patience_used", "data_wait_fraction",
    } | {f"loss/cluster_{i:02d}" for i in range(1, 5)} | {
        f"stage_length/stage_{i:02d}" for i in range(1, 5)
    }  # fmt: skip
    assert expected <= logged[24].keys()
    fractions = [value for name, value in logged[24].items() if name.startswith("goodput/")]
    assert len(fractions) == 7 and sum(fractions) == pytest.approx(1)
    assert logged[24]["stage"] == 4
    assert sum(logged[24][f"stage_length/stage_{i:02d}"] for i in range(1, 5)) == 24
    validated = [r for r in history if "validation_loss" in r]
    assert [r["step"] for r in validated] == [0, 12, 24]
    convergence = [r for r in history if "convergence/cluster_01" in r]
    first, last = (np.array([r[f"validation_loss/cluster_{i:02d}"] for i in range(1, 5)])
                   for r in (validated[0], validated[-1]))  # fmt: skip
    np.testing.assert_allclose(
        [convergence[-1][f"convergence/cluster_{i:02d}"] for i in range(1, 5)],
        1 - last / first, rtol=1e-5,
    )  # fmt: skip
    assert all(convergence[0][f"convergence/cluster_{i:02d}"] == 0 for i in range(1, 5))


def test_a_finished_run_is_left_alone(undisturbed, capsys):
    before = arrays(undisturbed)
    assert loop.train(smoke(), str(undisturbed)) == 0
    assert "finished already" in capsys.readouterr().out
    assert_same_arrays(arrays(undisturbed), before)


@pytest.mark.parametrize(
    "number", [signal.SIGTERM, pytest.param(signal.SIGINT, marks=pytest.mark.slow)]
)
def test_stopped_and_resumed_equals_undisturbed_bitwise(
    undisturbed, tmp_path, monkeypatch, capsys, number
):
    # Step 2 lies within stage 1 of 4 (stages last until step 3), so the resumed part passes a
    # stage change; step 2 is also within a logging window.
    with monkeypatch.context() as patch:
        StopAt(patch, 2, number)
        assert loop.train(smoke(), str(tmp_path)) == 75
    assert Checkpointer(tmp_path / "checkpoints", keep=1).latest_step() == 2
    assert arrays(tmp_path)["timesteps"] is not None
    assert "run the same command" in capsys.readouterr().out
    assert loop.train(smoke(), str(tmp_path)) == 0
    assert_same_arrays(arrays(tmp_path), arrays(undisturbed))
    assert without_times(read_history(tmp_path)) == without_times(read_history(undisturbed))


@pytest.mark.long  # the test of a stopped run covers the same code
def test_killed_without_warning_repeats_from_the_last_checkpoint(
    undisturbed, tmp_path, monkeypatch
):
    class Killed(BaseException):
        pass

    def update(progress, done, **kwargs):
        if done == 20:
            raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(Progress, "update", update)
        with pytest.raises(Killed):
            loop.train(smoke(), str(tmp_path))
    assert loop.train(smoke(), str(tmp_path)) == 0
    assert_same_arrays(arrays(tmp_path), arrays(undisturbed))
    assert without_times(read_history(tmp_path)) == without_times(read_history(undisturbed))


@pytest.mark.long  # two runs
def test_a_longer_run_resumes_and_keeps_its_opening_step(tmp_path):
    base = {"curriculum.max_fraction": 0.5, "curriculum.patience.steps": 1000}
    assert loop.train(smoke(**base, **{"train.duration": "12 steps"}), str(tmp_path)) == 0
    assert arrays(tmp_path)["timesteps"]["pacing"]["stage"] == 4  # all open from step 6
    assert loop.train(smoke(**base, **{"train.duration": "16 steps"}), str(tmp_path)) == 0
    lengths = arrays(tmp_path)["timesteps"]["stage_lengths"]
    np.testing.assert_array_equal(lengths, [6, 0, 0, 10])


def test_another_identity_is_refused_and_changes_nothing(undisturbed):
    before = {p: p.stat().st_mtime_ns for p in undisturbed.rglob("*")}
    with pytest.raises(UserError, match=r"another curriculum.num_clusters .*, optim.lr"):
        loop.train(smoke(**{"optim.lr": 0.5, "curriculum.num_clusters": 5}), str(undisturbed))
    assert {p: p.stat().st_mtime_ns for p in undisturbed.rglob("*")} == before


@pytest.mark.long  # one more program and run
def test_several_steps_in_one_program_are_the_same_run(undisturbed, tmp_path, capsys):
    config = smoke(**{"train.steps_per_dispatch": 3})
    assert loop.train(config, str(tmp_path)) == 0
    out = capsys.readouterr().out
    assert re.search(r"memory of a step on each device: \d+\.\d\d GiB", out)
    assert re.search(r"where the time went: .* s: step \d+\.\d % .*compile", out)
    here, there = (arrays(workdir) for workdir in (tmp_path, undisturbed))
    # The compiler may order sums differently in the two programs.
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), here, there)
    np.testing.assert_array_equal(
        here["timesteps"]["stage_lengths"], there["timesteps"]["stage_lengths"]
    )
    assert [r["step"] for r in read_history(tmp_path)] == [
        r["step"] for r in read_history(undisturbed)
    ]


def test_steps_in_one_program_must_divide_the_run_and_what_was_done(undisturbed, tmp_path):
    with pytest.raises(UserError, match="it must divide config.log.every, 6 steps"):
        loop.train(smoke(**{"train.steps_per_dispatch": 4}), str(tmp_path))
    shutil.copytree(undisturbed, tmp_path / "run")
    intervals = {
        f"{name}.every": "14 steps" for name in ("log", "validation", "sample", "checkpoint")
    }
    config = smoke(**intervals, **{"train.duration": "28 steps", "train.steps_per_dispatch": 7})
    with pytest.raises(UserError, match="does not divide step 24 of the newest checkpoint"):
        loop.train(config, str(tmp_path / "run"))


def test_a_mesh_that_splits_nothing_is_refused_before_anything_is_written(tmp_path):
    with pytest.raises(UserError, match="config.mesh.fsdp is 8; it must divide"):
        loop.train(smoke(**{"mesh.data": 1, "mesh.fsdp": 8}), str(tmp_path))
    assert not list(tmp_path.iterdir())


def test_read_only_workdir(tmp_path, monkeypatch):
    from etils import epath

    # Root can write anywhere, so the error of the file system is simulated.
    def refuse(*args, **kwargs):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(type(epath.Path(tmp_path)), "write_bytes", refuse)
    with pytest.raises(UserError, match=r"cannot be written to \(Permission denied\)"):
        loop.train(smoke(), str(tmp_path / "run"))


@pytest.mark.long  # one more program and run
def test_a_trace_of_the_steps_asked_for(tmp_path, capsys):
    config = smoke(**{"train.duration": "8 steps", "profile.steps": (3, 5)})
    assert loop.train(config, str(tmp_path)) == 0
    assert "the trace of the profiled steps is in" in capsys.readouterr().out
    (folder,) = (tmp_path / "profile" / "plugins" / "profile").iterdir()
    assert list(folder.glob("*.xplane.pb"))
    (trace,) = folder.glob("*.trace.json.gz")
    events = json.loads(gzip.decompress(trace.read_bytes()))["traceEvents"]
    steps = [e["args"]["step_num"] for e in events if e.get("name") == "train" and "args" in e]
    assert sorted(map(int, steps)) == [3, 4]
    # Other traced steps are the same run, and a run past these steps traces nothing.
    config = smoke(**{"train.duration": "10 steps", "profile.steps": (2, 4)})
    assert loop.train(config, str(tmp_path)) == 0
    assert list((tmp_path / "profile" / "plugins" / "profile").iterdir()) == [folder]
    for steps in [(3,), (3, 3), (-1, 2)]:
        with pytest.raises(UserError, match=r"config.profile.steps is .*; it must be two numbers"):
            loop.train(smoke(**{"profile.steps": steps}), str(tmp_path / "other"))
