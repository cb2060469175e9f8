"""Calls of `python -m cdt.main` in real processes: exit codes, and one sentence for an error."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cpu_devices import xla_flags
from front_door import cdt, with_cache

ROOT = Path(__file__).parents[1]
DIGITS = f"--config={ROOT}/configs/digits.py:smoke"


def process(*arguments):
    """The program in a process of its own, of one device."""
    return subprocess.run(
        [sys.executable, "-m", "cdt.main", *with_cache(arguments)], cwd=ROOT,
        env=os.environ | {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": xla_flags(1)},
        capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip


BAD = {
    "unknown key": ([DIGITS, "--config.optim.lrr=1"], "did you mean 'optim.lr'"),
    "unknown section": ([DIGITS, "--config.optm.lr=1"], "did you mean 'optim.lr'"),
    "wrong type": ([DIGITS, "--config.optim.lr=fast"], "it must be a float such as 0.0001"),
    "no such file": (["--config=configs/digit.py"], "does not exist"),
    "no such variant": (["--config=configs/digits.py:huge"], "the variant 'huge'"),
    "no config": ([], "--config is missing"),
    "wrong mode": ([DIGITS, "--mode=trian"], "did you mean 'train'"),
    "unknown flag": ([DIGITS, "--wrokdir=x"], "wrokdir"),
    "not a flag": ([DIGITS, "optim.lr=1"], "not a flag"),
    "wrong value": ([DIGITS, "--config.process.name=folw"], "did you mean 'flow'"),
    "no checkpoint": ([DIGITS, "--mode=sample"], "train first"),
    "nothing to evaluate": ([DIGITS, "--mode=evaluate"], "train first"),
    "no data set": (
        [f"--config={ROOT}/configs/imagenet64.py", "--config.data.path=no_such_data_set"], "TFDS"),
}  # fmt: skip


def assert_one_sentence(result, words):
    assert result.returncode == 2, result.stderr
    lines = [line for line in result.stderr.splitlines() if line.startswith("cdt: ")]
    assert len(lines) == 1 and words in lines[0], result.stderr
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_one_sentence_and_exit_code_2(name, tmp_path):
    arguments, words = BAD[name]
    assert_one_sentence(cdt(*arguments, f"--workdir={tmp_path / 'run'}"), words)
    assert not (tmp_path / "run" / "checkpoints").exists()


# Refused before JAX is imported, in the middle of the flags, and by what the mode builds.
@pytest.mark.parametrize("name", ["unknown key", "not a flag", "wrong value"])
def test_a_process_ends_with_the_sentence_and_the_code(name, tmp_path):
    arguments, words = BAD[name]
    assert_one_sentence(process(*arguments, f"--workdir={tmp_path / 'run'}"), words)


def test_workdir_is_required():
    assert_one_sentence(cdt(DIGITS), "--workdir is missing")


def test_a_read_only_workdir_is_refused_before_jax_is_loaded(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "access", lambda path, mode: False)  # root may write anywhere
    monkeypatch.setattr("cdt.main.keep_freed_memory", None)  # called before JAX is imported
    refused = cdt(DIGITS, f"--workdir={tmp_path}/run", "--mode=evaluate")
    assert_one_sentence(refused, "cannot be written to")
    assert not (tmp_path / "run").exists()


def test_config_file_that_raises(tmp_path):
    (tmp_path / "broken.py").write_text("def get_config(variant=''):\n    return 1 / 0\n")
    refused = cdt(f"--config={tmp_path}/broken.py", f"--workdir={tmp_path}/run")
    assert_one_sentence(refused, "ZeroDivisionError")


def test_train_sample_and_evaluate(tmp_path):
    run = f"--workdir={tmp_path}"
    trained = cdt(DIGITS, run)
    assert trained.returncode == 0, trained.stderr
    assert "blocks/mlp/in/kernel" in trained.stdout  # the table of parameters

    sampled = cdt(DIGITS, run, "--mode=sample", "--config.sample.num=30")
    assert sampled.returncode == 0, sampled.stderr
    folder = tmp_path / "samples" / "step_24"
    with np.load(folder / "samples.npz") as arrays:
        assert arrays["arr_0"].shape == (30, 8, 8, 1) and arrays["arr_0"].dtype == np.uint8
        assert arrays["arr_1"].tolist() == [*range(10)] * 3
    assert Image.open(folder / "grid.png").size[0] > 10 * 64

    evaluated = cdt(DIGITS, run, "--mode=evaluate")
    assert evaluated.returncode == 0, evaluated.stderr
    result = json.loads((tmp_path / "evaluations" / "step_24_pixels.json").read_text())
    assert {"sampler", "evaluations", "guidance", "ema", "n", "reference_train"} <= result.keys()
    assert result["n"] == 100 and result["reference_train"]["n"] == 1500
    # Barely trained: far from the data, but not as far as nothing.
    assert 10 < result["frechet_train"] < 100
    assert 1.5 < result["nearest_train_of_test"] < 3


@pytest.mark.long  # four runs; test_step and test_sharded_step compare numbers of devices
def test_a_change_of_devices(tmp_path):
    """Eight devices, then one in a process of its own: the losses of a run that never moved."""
    run, alone = (f"--workdir={tmp_path / name}" for name in ("moved", "alone"))
    first = cdt(DIGITS, run, "--config.train.duration=18 steps")
    assert first.returncode == 0, first.stderr
    on = process(DIGITS, run)
    assert on.returncode == 0, on.stderr
    assert "resuming at step 18 of 24" in on.stdout
    for duration in (18, 24):
        done = cdt(DIGITS, alone, f"--config.train.duration={duration} steps")
        assert done.returncode == 0, done.stderr

    def losses(name):
        lines = (tmp_path / name / "metrics.jsonl").read_text().splitlines()
        return np.array([r["loss"] for r in map(json.loads, lines) if "loss" in r])

    np.testing.assert_allclose(losses("moved"), losses("alone"), rtol=1e-5)
