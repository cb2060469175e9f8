"""Bad steps (NaN or inf): they are logged with their examples, and too many stop the run.

tests/training/test_step.py checks that they change no parameter, moment, EMA or pacing.
"""

import os
import re
import shlex
import signal
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cdt import from_config
from cdt.data.pipeline import make_batch
from cdt.diffusion.pixels import to_float
from cdt.errors import UserError
from cdt.from_config import optimization
from cdt.modes import train as loop
from cdt.modes.replay import replay
from cdt.monitoring.progress import Progress
from cdt.monitoring.writers import read_history
from cdt.workdir.checkpoint import Checkpointer
from smoke_runs import arrays, smoke

ROOT = Path(__file__).parents[2]
LINE = r"Step (\d+) was skipped, .* examples of digits/train: ([\d, ]+)\."


def poisonous(monkeypatch, image, gradient_only):
    """Make the loss of a batch with this image NaN, or only its gradient."""
    original, target = optimization.training_loss, to_float(jnp.asarray(image))

    def training_loss(config, model):
        inner = original(config, model)

        def loss(params, x0, *rest):
            value, error = inner(params, x0, *rest)
            poisoned = jnp.any(jnp.all(jnp.abs(x0 - target) < 1e-3, axis=(1, 2, 3)))
            if gradient_only:
                first = jnp.ravel(jax.tree.leaves(params)[0])[0]
                zero = first - jax.lax.stop_gradient(first)
                return value + jnp.sqrt(jnp.where(poisoned, zero, 1.0)) - 1.0, error
            return jnp.where(poisoned, jnp.nan, value), error

        return loss

    monkeypatch.setattr(optimization, "training_loss", training_loss)


def indices_of(images, source):
    """Find the examples by comparing images."""
    every = source.images(np.arange(source.size)).reshape(source.size, -1)
    return [np.flatnonzero((every == image.ravel()).all(axis=1)).tolist() for image in images]


@pytest.mark.parametrize(
    "gradient_only",
    [
        pytest.param(False, id="loss", marks=pytest.mark.slow),
        pytest.param(True, id="gradient", marks=pytest.mark.long),
    ],
)
def test_a_bad_step_is_logged_with_its_examples(tmp_path, monkeypatch, caplog, gradient_only):
    config = smoke()
    source, _ = from_config.data(config)
    batch = make_batch(source, seed=config.seed, batch_size=config.train.batch_size, flip=False)
    images = batch(7)["image"]
    poisonous(monkeypatch, images[3], gradient_only)
    assert loop.train(config, str(tmp_path)) == 0
    lines = [m for r in caplog.records if (m := re.match(LINE, r.getMessage()))]
    assert [int(line[1]) for line in lines] == [8]
    named = [int(index) for index in lines[0][2].split(", ")]
    assert len(named) == config.train.batch_size
    for index, found in zip(named, indices_of(images, source), strict=True):
        assert index in found  # there may be twins
    counts = {r["step"]: r["bad_steps"] for r in read_history(tmp_path) if "bad_steps" in r}
    assert counts == {6: 0, 12: 1, 18: 1, 24: 1}
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(arrays(tmp_path)["params"]))


def stop_after(step, patch):
    """Send SIGTERM to the run after this number of steps."""
    stop = lambda self, done, **_: done == step and os.kill(os.getpid(), signal.SIGTERM)  # noqa: E731
    patch.setattr(Progress, "update", stop)


@pytest.mark.slow
def test_a_step_is_repeated_and_nothing_is_changed(tmp_path, monkeypatch, capsys):
    config = smoke(**{"train.duration": "12 steps", "log.every": "1 steps"})
    with monkeypatch.context() as patch:
        stop_after(7, patch)
        assert loop.train(config, str(tmp_path)) == 75
    before = {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*")}
    capsys.readouterr()
    next_step = Checkpointer(tmp_path / "checkpoints", keep=1).latest_step() + 1
    config.replay.step = next_step
    assert replay(config, str(tmp_path)) == 0
    told = capsys.readouterr().out
    assert before == {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*")}

    # The next step of the run is this step, from the same state.
    assert loop.train(config, str(tmp_path)) == 0
    (taken,) = [r for r in read_history(tmp_path) if r["step"] == next_step and "loss" in r]
    printed = re.match(rf"step {next_step} with the state of step {next_step - 1}: "
                       r"loss (\S+), gradient norm (\S+); no NaN or inf", told)  # fmt: skip
    assert [float(number) for number in printed.groups()] == [taken["loss"], taken["grad_norm"]]

    config.replay.step = 0
    with pytest.raises(UserError, match="config.replay.step is 0; it must be at least 1"):
        replay(config, str(tmp_path))
    config.replay.step = 1
    with pytest.raises(UserError, match="There is no checkpoint of a run in .*: train first"):
        replay(config, str(tmp_path / "none"))


# With this learning rate the second and all later steps have NaN or inf.
FATAL = {"optim.lr": 1e38, "optim.clip_norm": 0.0, "optim.warmup": "0 steps",
         "optim.schedule": "constant", "train.max_bad_steps": 3}  # fmt: skip


@pytest.mark.long  # two runs; test_step has what a bad step leaves alone
def test_the_last_good_state_is_saved(tmp_path, monkeypatch, caplog):
    assert loop.train(smoke(**FATAL), str(tmp_path / "stopped")) == 3
    with monkeypatch.context() as patch:
        stop_after(1, patch)
        assert loop.train(smoke(**FATAL), str(tmp_path / "good")) == 75
    stopped, good = (arrays(tmp_path / name) for name in ("stopped", "good"))
    assert "NaN or inf" in caplog.text and "optim.lr" in caplog.text
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(stopped["params"]))
    assert stopped["counters"]["step"] == 6 and stopped["counters"]["bad"]["in_a_row"] >= 3
    for item in ("params", "ema", "opt", "timesteps"):
        jax.tree.map(np.testing.assert_array_equal, stopped[item], good[item])
    assert [m[1] for r in caplog.records if (m := re.match(LINE, r.getMessage()))] == list("23456")


@pytest.mark.slow
def test_the_program_prints_how_to_repeat_the_step(tmp_path):
    def run(command):
        return subprocess.run(
            command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=300,
            env=os.environ | {"JAX_PLATFORMS": "cpu"},
        )  # fmt: skip

    options = [f"--config.{key}={value}" for key, value in FATAL.items()]
    workdir = f"--workdir={tmp_path / 'a run'}"
    stopped = run(
        [sys.executable, "-m", "cdt.main", "--config=configs/digits.py:smoke", workdir, *options]
    )
    assert stopped.returncode == 3, stopped.stderr
    assert "Traceback" not in stopped.stderr
    assert "for 3 steps in a row; the last good state is saved at step 6" in stopped.stderr
    told = dict(re.findall(LINE, stopped.stderr))
    (command,) = re.findall(r"To repeat the last of these steps: python (.*)", stopped.stderr)
    before = {p: p.stat().st_mtime_ns for p in (tmp_path / "a run").rglob("*")}
    # Which of the two is infinite and which NaN depends on the order of the processor's sums.
    line = (r"step 6 with the state of step 6: loss \S+, gradient norm \S+; NaN or inf found\n"
            rf"examples of digits/train: {told['6']}\n")  # fmt: skip
    first, second = (run([sys.executable, *shlex.split(command)]) for _ in range(2))
    assert first.returncode == second.returncode == 3, first.stderr + second.stderr
    assert re.search(line, first.stdout) and first.stdout == second.stdout
    assert before == {p: p.stat().st_mtime_ns for p in (tmp_path / "a run").rglob("*")}
