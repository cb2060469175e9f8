"""What every import of weights does: reads a file of them, and leaves a checkpoint of step 0."""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from etils import epath
from ml_collections import ConfigDict

from cdt import from_config
from cdt.config import flatten
from cdt.errors import EXIT_FINISHED, UserError, user_errors
from cdt.files import pytorch, safetensors
from cdt.workdir.checkpoint import Checkpointer
from cdt.workdir.record import check_identity, record_config

PyTree = Any


def import_weights(
    config: ConfigDict,
    workdir: epath.PathLike,
    weights: epath.PathLike,
    find_file: Callable[[epath.Path], epath.Path],
    to_params: Callable[[dict[str, np.ndarray], from_config.Model], PyTree],
) -> int:
    """Save weights as the checkpoint of step 0; return the exit code.

    Args:
      config: of the run that can be sampled then.
      workdir: its folder.
      weights: the path that was given.
      find_file: that path -> the file to read; raises UserError where either it or the config is
        of no use.
      to_params: ({name: array}, model of the config) -> parameters of its network, f32; the message
        of a ValueError ends a sentence that names the file.

    Raises:
      UserError: the weights cannot be read or are of another network than the config's, or the
        workdir holds a run already.
    """
    path = epath.Path(workdir)
    with user_errors():
        if not weights:
            raise UserError("--weights is missing; give the path of the weights.")
        file = find_file(epath.Path(weights).expanduser())
        model = from_config.model(config)
        checkpoints = _new_checkpoints(config, path)
        state = _read_weights(file)
        try:
            params = to_params(state, model)
        except ValueError as error:
            raise UserError(
                f"The weights in {file} are not those of the config's network: {error}; give the "
                "config that they were trained with."
            ) from error
    _write_checkpoint(config, path, checkpoints, model, params, file)
    return EXIT_FINISHED


def _new_checkpoints(config: ConfigDict, workdir: epath.Path) -> Checkpointer:
    """The checkpoints of a workdir that has none yet.

    Raises:
      UserError: it holds some, or another run.
    """
    check_identity(workdir, config)
    checkpoints = Checkpointer(workdir / "checkpoints", keep=config.checkpoint.keep)
    if checkpoints.latest_step() is not None:
        raise UserError(f"The workdir {workdir} holds checkpoints already; give another one.")
    return checkpoints


def _read_weights(file: epath.Path) -> dict[str, np.ndarray]:
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


def _write_checkpoint(
    config: ConfigDict,
    workdir: epath.Path,
    checkpoints: Checkpointer,
    model: from_config.Model,
    params: PyTree,
    file: epath.Path,
) -> None:
    """Save `params`, and as every average, with the config and where they come from.

    Args:
      config: of the run that can be sampled then.
      workdir: its folder.
      checkpoints: from `_new_checkpoints`.
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
