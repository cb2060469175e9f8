"""Writes the checkpoint with which tests check that checkpoints of this version stay restorable.

    JAX_PLATFORMS=cpu PYTHONPATH=.:tests python tests/faults/make_version_fixture.py

Run it once, before a version is released; a fixture is never replaced. It is the train state of the
smallest DiT with the shipped optimizer, EMAs and curriculum, after two steps.
"""

import json
import tarfile
import tempfile
from pathlib import Path

import jax
import numpy as np

from cdt import __version__, from_config
from cdt.config import default_config, flatten
from cdt.training.state import to_items
from cdt.workdir.checkpoint import Checkpointer
from cdt.workdir.leaves import leaf_checksums

VERSIONS = Path(__file__).parent / "versions"
STEP = 2


def fixture_config():
    config = default_config()
    config.model.hidden_size, config.model.depth, config.model.num_heads = 8, 1, 2
    config.model.num_classes = 10
    config.curriculum.num_clusters = 4
    config.train.batch_size = 4
    return config


def parts_of(config):
    source, _ = from_config.data(config)
    return from_config.training(
        config, from_config.model(config), 1, source.size, open_all_at=8
    ), source


def main() -> None:
    config = fixture_config()
    parts, source = parts_of(config)
    state = jax.jit(parts.init)(jax.random.key(0))
    for step in range(STEP):
        indices = np.arange(4 * step, 4 * step + 4)
        batch = {"image": source.images(indices), "label": source.labels[indices]}
        state, _ = jax.jit(parts.step)(state, batch)
    items = to_items(state)
    sums = {
        item: {path: int(total) for path, total in leaf_checksums(tree).items()}
        for item, tree in items.items()
    }
    VERSIONS.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        checkpoints = Checkpointer(folder, keep=1)
        checkpoints.save(STEP, items, {"config": flatten(config), "open_all_at": 8})
        checkpoints.close()
        with tarfile.open(VERSIONS / f"{__version__}.tar.xz", "w:xz") as archive:
            archive.add(folder, "checkpoints")
    (VERSIONS / f"{__version__}.json").write_text(json.dumps(sums, indent=1) + "\n")


if __name__ == "__main__":
    main()
