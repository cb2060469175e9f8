"""What every import of weights does: reads a file of them, and leaves a checkpoint of step 0."""

from typing import Any

import jax
import numpy as np
from etils import epath
from ml_collections import ConfigDict

from cdt import from_config
from cdt.config import flatten
from cdt.errors import UserError
from cdt.files import pytorch, safetensors
from cdt.workdir.checkpoint import Checkpointer
from cdt.workdir.record import check_identity, record_config

PyTree = Any


def new_checkpoints(config: ConfigDict, workdir: epath.Path) -> Checkpointer:
    """The checkpoints of a workdir that has none yet.

    Raises:
      UserError: it holds some, or another run.
    """
    check_identity(workdir, config)
    checkpoints = Checkpointer(workdir / "checkpoints", keep=config.checkpoint.keep)
    if checkpoints.latest_step() is not None:
        raise UserError(f"The workdir {workdir} holds checkpoints already; give another one.")
    return checkpoints


def read_weights(file: epath.Path) -> dict[str, np.ndarray]:
    """{name: array} of a `.safetensors` file or of one that PyTorch saved; of one that a training
    program left, its averages.

    Raises:
      UserError: it cannot be read.
      ValueError: it is damaged, or no such file.
    """
    if file.suffix == ".safetensors":
        return safetensors.read_tensors(file)
    try:
        return pytorch.read_state_dict(file, inside="ema")
    except OSError as error:
        raise UserError(
            f"--weights is '{file}', which cannot be read ({error.strerror or error}); give a file "
            "of weights."
        ) from error


def other_network(file: epath.Path, error: ValueError) -> UserError:
    """For weights of which `error` says why they do not fit."""
    return UserError(
        f"The weights in {file} are not those of the config's network: {error}; give the config "
        "that they were trained with."
    )


def write_checkpoint(
    config: ConfigDict,
    workdir: epath.Path,
    checkpoints: Checkpointer,
    model: from_config.Model,
    params: PyTree,
    file: epath.Path,
) -> None:
    """Saves `params`, and as every average, with the config and where they come from.

    Args:
      config: of the run that can be sampled then.
      workdir: its folder.
      checkpoints: from `new_checkpoints`.
      model: of that config.
      params: of its network, f32; what a loss learns beside it starts as in a new run.
      file: that they were read from.
    """
    rest = jax.jit(lambda key: {k: v for k, v in model.init(key).items() if k not in params})
    params = jax.device_put(params) | rest(jax.random.key(config.seed))
    record_config(workdir, config)
    items = {"params": params, "ema": {name: params for name in from_config.ema_decays(config)}}
    origin = {"file": file.name, "sha256": safetensors.sha256(file)}
    checkpoints.save(0, items, {"config": flatten(config), "imported": origin})
    checkpoints.wait()
    checkpoints.close()
    count = sum(leaf.size for leaf in jax.tree.leaves(params))
    print(f"{workdir}: a checkpoint of the {count:,} parameters in {file}")
