"""kill -9 at any moment, also during a save: the resumed run has the same result."""

import random
import time
from pathlib import Path
from typing import NamedTuple

import pytest

from cdt.monitoring.writers import read_history
from host_processes import Processes, training
from smoke_runs import arrays, assert_same_arrays

INTERVAL = 12  # steps between checkpoints


class Kill(NamedTuple):
    """State after a SIGKILL, and the step from which the next start continued."""

    in_save: bool  # a half-written checkpoint
    reached: int  # steps done
    saved: int  # the newest complete checkpoint; 0: none
    resumed: int | None = None  # unknown where the next start was killed before it could tell


def command(workdir, cache, steps):
    """A run of several stages that logs every step."""
    return training(
        workdir, cache, f"--config.train.duration={steps} steps", "--config.log.every=1 steps",
        f"--config.checkpoint.every={INTERVAL} steps", f"--config.validation.every={steps} steps",
        f"--config.sample.every={steps} steps", "--config.curriculum.num_clusters=4",
        f"--config.curriculum.patience.steps={steps}", "--config.curriculum.max_fraction=1.0",
        f"--config.curriculum.patience.max_stage_steps={steps // 5}",
    )  # fmt: skip


def undisturbed(folder, cache, steps):
    with Processes(command(folder / "whole", cache, steps), 1, folder / "output") as processes:
        assert processes.wait() == [0], processes.err(0)
    return folder / "whole"


def run_killed(folder, cache, steps, in_saves, at_any_time) -> tuple[Path, list[Kill]]:
    """Return (workdir, kills) of a run that is killed after each start except the last.

    Args:
      in_saves: number of kills during one of the first three saves; one that misses is repeated.
      at_any_time: number of kills during the start or the first 40 steps.
    """
    workdir, draw = folder / "killed", random.Random(0)
    plans = ["save"] * in_saves + ["any"] * at_any_time
    draw.shuffle(plans)
    kills: list[Kill] = []
    for life in range(3 * len(plans)):
        output = folder / f"output{life}"
        with Processes(command(workdir, cache, steps), 1, output) as processes:
            (process,) = processes.processes
            if not plans:
                assert processes.wait() == [0], processes.err(0)
            else:
                in_save = (_kill_in_save if plans[0] == "save" else _kill)(process, workdir, draw)
                assert process.returncode == -9, processes.err(0)
                if in_save or plans[0] == "any":
                    plans.pop(0)
            told = processes.out(0).partition("resuming at step ")[2].split()
            if kills and told:
                kills[-1] = kills[-1]._replace(resumed=int(told[0]))
        if process.returncode == 0:
            return workdir, kills
        reached = max((r["step"] for r in read_history(workdir) if "loss" in r), default=0)
        kills.append(Kill(in_save, reached, saved=_newest(workdir)))
    raise AssertionError(f"{plans} were not carried out: {kills}")


def _kill_in_save(process, workdir, draw) -> bool:
    wanted, delay = draw.randint(1, 3), draw.uniform(0.0, 0.05)
    left, seen = _unfinished(workdir), set()  # left by the life before, until the first save
    while process.poll() is None and len(seen) < wanted:
        time.sleep(0.001)
        now = _unfinished(workdir)
        left &= now
        seen |= now - left
    time.sleep(delay)
    process.kill()
    process.wait()
    return bool(_unfinished(workdir) - left)


def _kill(process, workdir, draw) -> bool:
    left = _unfinished(workdir)
    before, seconds = _lines(workdir), draw.uniform(0.0, 3.0)
    steps, delay = draw.choice([0, draw.randint(1, 40), draw.randint(1, 40)]), draw.random() / 20
    began = time.monotonic()
    while process.poll() is None and (
        _lines(workdir) < before + steps if steps else time.monotonic() < began + seconds
    ):
        time.sleep(0.001)
        left &= _unfinished(workdir)
    time.sleep(delay)
    process.kill()
    process.wait()
    return bool(_unfinished(workdir) - left)


def _unfinished(workdir) -> set[str]:
    """The folders of saves that are not complete."""
    return {path.name for path in workdir.glob("checkpoints/*orbax-checkpoint-tmp*")}


def _newest(workdir) -> int:
    steps = [path.name for path in workdir.glob("checkpoints/*") if path.name.isdecimal()]
    return max(map(int, steps), default=0)


def _lines(workdir) -> int:
    file = workdir / "metrics.jsonl"
    return file.read_bytes().count(b"\n") if file.exists() else 0


def losses(workdir):
    return [(r["step"], r["loss"]) for r in read_history(workdir) if "loss" in r]


def check(workdir, kills, whole, steps):
    assert_same_arrays(arrays(workdir), arrays(whole))
    assert losses(workdir) == losses(whole) and len(losses(whole)) == steps
    for kill in kills:
        assert kill.resumed in (kill.saved, None), kill
        # The step that is being saved is at most one interval old.
        assert kill.reached - kill.saved <= (2 if kill.in_save else 1) * INTERVAL, kill


@pytest.mark.slow
def test_killed_in_a_save_and_at_another_time(tmp_path):
    cache, steps = tmp_path / "cache", 96
    whole = undisturbed(tmp_path, cache, steps)
    workdir, kills = run_killed(tmp_path, cache, steps, in_saves=1, at_any_time=1)
    assert sum(kill.in_save for kill in kills) >= 1 and len(kills) >= 2
    check(workdir, kills, whole, steps)


@pytest.mark.slow
def test_killed_again_and_again(tmp_path):
    cache, steps = tmp_path / "cache", 480
    whole = undisturbed(tmp_path, cache, steps)
    workdir, kills = run_killed(tmp_path, cache, steps, in_saves=12, at_any_time=8)
    check(workdir, kills, whole, steps)
    in_saves, stages = sum(kill.in_save for kill in kills), arrays(whole)["timesteps"]
    assert len(kills) >= 20 and in_saves >= 10 and (stages["stage_lengths"] > 0).all()
    assert sum(kill.resumed is not None for kill in kills) >= 15
    repeated = [kill.reached - kill.saved for kill in kills]
    print(f"{len(kills)} kills, {in_saves} in a save; steps repeated: {repeated}; {kills[-1]}")
