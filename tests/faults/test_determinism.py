"""The same seed on the same devices gives the same bits, in every mode."""

import json
import os
import shutil
import subprocess
import sys

import numpy as np
import pytest

from cdt.modes.compare import compare
from cdt.modes.difficulty import difficulty
from cdt.modes.evaluate import evaluate
from cdt.modes.sample import sample
from cdt.modes.train import train
from cdt.monitoring.writers import read_history
from host_processes import ROOT, Processes, training
from smoke_runs import arrays, assert_same_arrays, smoke

_TIMES = {"time", "images_per_second", "data_wait_fraction"}


@pytest.fixture(scope="module")
def two_runs(tmp_path_factory):
    folders = [tmp_path_factory.mktemp("run") for _ in range(2)]
    for folder in folders:
        assert train(smoke(), str(folder)) == 0
    return folders


@pytest.mark.long  # two runs; tests/modes compares a resumed run with an uninterrupted one
def test_training(two_runs):
    assert_same_arrays(*(arrays(folder) for folder in two_runs))
    logged = [
        [
            {k: v for k, v in record.items() if k not in _TIMES and not k.startswith("goodput/")}
            for record in read_history(folder)
        ]
        for folder in two_runs
    ]
    assert len(logged[0]) > 3
    np.testing.assert_equal(*logged)  # nan equals nan


@pytest.mark.slow
def test_another_seed_is_another_run(two_runs, tmp_path):
    assert train(smoke(seed=1), str(tmp_path)) == 0
    with pytest.raises(AssertionError):
        assert_same_arrays(arrays(tmp_path), arrays(two_runs[0]))


@pytest.mark.long  # of the same runs
def test_sampling(two_runs):
    for folder in two_runs:
        assert sample(smoke(), str(folder)) == 0
    files = [[*folder.glob("**/samples.npz")] for folder in two_runs]
    assert [len(found) for found in files] == [1, 1]
    with np.load(files[0][0]) as a, np.load(files[1][0]) as b:
        assert a.files == b.files
        for name in a.files:
            np.testing.assert_array_equal(a[name], b[name])


@pytest.mark.long  # of the same runs
def test_evaluation(two_runs):
    results = []
    for folder in two_runs:
        assert evaluate(smoke(), str(folder)) == 0
        (file,) = (folder / "evaluations").glob("*.json")
        results.append(json.loads(file.read_text()))
    np.testing.assert_equal(*results)


def _results(folder):
    """{name: text} of the JSON files in a folder, without values that depend on the clock."""

    def untimed(value):
        if isinstance(value, dict):
            return {k: untimed(v) for k, v in value.items() if not _is_time(k)}
        return [untimed(v) for v in value] if isinstance(value, list) else value

    return {
        str(path.relative_to(folder)): untimed(json.loads(path.read_text()))
        for path in sorted(folder.glob("*.json"))
    }


def _is_time(key):
    return "seconds" in key or "time" in key or key in ("workdir", "versions")


@pytest.mark.slow
@pytest.mark.parametrize("mode, folder", [(difficulty, "difficulty"), (compare, "")])
def test_studies(mode, folder, tmp_path):
    config = smoke(
        **{"compare.arms": ("uniform: curriculum.enabled=False", "curriculum:"), "compare.seeds": 1,
           "compare.evaluations": 1, "evaluate.num": 40, "train.duration": "8 steps"}
    )  # fmt: skip
    found = []
    for name in ("a", "b"):
        assert mode(config, str(tmp_path / name)) == 0
        found.append(_results(tmp_path / name / folder))
    assert found[0]
    np.testing.assert_equal(*found)


@pytest.mark.slow
@pytest.mark.parametrize("count", [1, 2])
def test_training_in_other_processes(count, tmp_path, monkeypatch):
    for number, name in enumerate("ab"):
        monkeypatch.setenv("PYTHONHASHSEED", str(number))
        command = training(tmp_path / name, tmp_path / "cache")
        with Processes(command, count, tmp_path / "output", devices=2 // count) as processes:
            assert processes.wait() == [0] * count, processes.err(0)
    assert_same_arrays(arrays(tmp_path / "a"), arrays(tmp_path / "b"))
    pictures = [(tmp_path / name / "samples/step_00000012.png").read_bytes() for name in "ab"]
    assert pictures[0] == pictures[1]


def _train_on_a_gpu(tmp_path, name, flags):
    """A short run in bfloat16 in a separate process; the compilation cache is shared."""
    command = training(
        tmp_path / name, tmp_path / "cache", "--config.model.dtype=bfloat16", "--num_processes=1"
    )
    environment = os.environ | {"JAX_PLATFORMS": "cuda", "XLA_FLAGS": flags}
    environment |= {"XLA_PYTHON_CLIENT_PREALLOCATE": "false"}
    done = subprocess.run(
        [sys.executable, *command], env=environment, cwd=ROOT, capture_output=True, text=True,
        check=False, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return arrays(tmp_path / name)


@pytest.mark.skipif(shutil.which("nvidia-smi") is None, reason="there is no GPU")
@pytest.mark.parametrize(
    "flag", ["xla_gpu_deterministic_ops", "xla_gpu_exclude_nondeterministic_ops"]
)
def test_training_on_a_gpu(tmp_path, flag):
    """docs/performance.md promises this for each of the two flags."""
    runs = [_train_on_a_gpu(tmp_path, name, f"--{flag}=true") for name in "ab"]
    assert_same_arrays(*runs)
