"""Checkpoints of every version stay restorable, value by value, and their runs continue."""

import json
import tarfile

import jax
import numpy as np
import pytest

from cdt.modes import train as loop
from cdt.monitoring.writers import read_history
from cdt.training.state import to_items
from cdt.workdir.checkpoint import Checkpointer
from cdt.workdir.leaves import leaf_checksums
from faults.make_version_fixture import STEP, VERSIONS, fixture_config, parts_of
from smoke_runs import smoke


@pytest.mark.parametrize("archive", sorted(VERSIONS.glob("*.tar.xz")), ids=lambda path: path.name)
def test_a_checkpoint_of_each_version_is_restored(archive, tmp_path):
    with tarfile.open(archive) as packed:
        packed.extractall(tmp_path, filter="data")
    parts, _ = parts_of(fixture_config())
    abstract = to_items(jax.eval_shape(parts.init, jax.random.key(0)))
    checkpoints = Checkpointer(tmp_path / "checkpoints", keep=1)
    step, items, meta = checkpoints.restore_latest(abstract)
    assert step == STEP == int(items["counters"]["step"]) and meta["open_all_at"] == 8
    saved = json.loads((VERSIONS / archive.name.replace(".tar.xz", ".json")).read_text())
    found = {
        item: {path: int(total) for path, total in leaf_checksums(tree).items()}
        for item, tree in items.items()
    }
    assert found == saved and sum(map(len, saved.values())) > 50


def test_a_run_of_version_0_1_0_continues(tmp_path):
    """Continue a workdir of version 0.1.0 after step 6, and compare with the values that version
    0.1.0 logged for steps 7 to 12. The curriculum continues in stage 2 of 3."""
    with tarfile.open(VERSIONS / "runs" / "0.1.0.tar.xz") as packed:
        packed.extractall(tmp_path, filter="data")
    config = smoke(**{
        "model.hidden_size": 8, "model.depth": 1, "model.num_heads": 2, "train.batch_size": 8,
        "density.name": "logit_normal", "density.logit_normal.mean": -0.5,
        "density.logit_normal.std": 0.8, "curriculum.num_clusters": 3,
        "curriculum.max_fraction": 0.75, "curriculum.patience.steps": 2,
        "curriculum.patience.max_stage_steps": 4, "ema.decays": (0.9,),
        "validation.images": 8, "validation.every": "6 steps", "log.every": "3 steps",
        "checkpoint.every": "6 steps", "sample.every": "6 steps", "sample.num": 4,
        "sample.steps": 1, "train.duration": "12 steps",
    })  # fmt: skip
    assert loop.train(config, str(tmp_path / "run")) == 0
    expected = json.loads((VERSIONS / "runs" / "0.1.0.json").read_text())
    found = [r for r in read_history(tmp_path / "run") if r["step"] > 6 and "event" not in r]
    assert [r["step"] for r in found] == [r["step"] for r in expected] == [9, 12, 12]
    for then, now in zip(expected, found, strict=True):
        np.testing.assert_allclose([now[name] for name in then], list(then.values()), rtol=1e-4)
