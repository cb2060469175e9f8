"""Checkpoints of every version stay restorable, value by value."""

import json
import tarfile

import jax
import pytest

from cdt.checkpoint import Checkpointer
from cdt.leaves import leaf_checksums
from cdt.state import to_items
from faults.make_version_fixture import STEP, VERSIONS, fixture_config, parts_of


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
