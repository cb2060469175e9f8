"""Helpers for tests of whole runs: smoke configs, and the arrays of a checkpoint."""

import importlib.util
from pathlib import Path

import jax
import numpy as np
import orbax.checkpoint as ocp

from cdt.workdir.checkpoint import Checkpointer

CONFIGS = Path(__file__).parents[1] / "configs"


def load(name, variant):
    spec = importlib.util.spec_from_file_location(name, CONFIGS / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.get_config(variant)


def smoke(name="digits", **overrides):
    config = load(name, "smoke")
    config.update_from_flattened_dict(overrides)
    return config


def arrays(workdir, step=None):
    """Every array of a checkpoint as NumPy, by item."""
    folder = Path(workdir) / "checkpoints" / str(step or Checkpointer(
        Path(workdir) / "checkpoints", keep=1).latest_step())  # fmt: skip
    # The devices it was saved from may belong to several processes, so they do not exist here.
    one_device = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    args = ocp.args.StandardRestore(fallback_sharding=one_device)
    handler = ocp.StandardCheckpointHandler()
    return {
        item.name: jax.tree.map(np.asarray, handler.restore(item, args=args))
        for item in folder.iterdir()
        if item.is_dir() and item.name != "meta"
    }


def assert_same_arrays(a, b):
    assert a.keys() == b.keys() and len(a) == 6
    jax.tree.map(np.testing.assert_array_equal, a, b)
