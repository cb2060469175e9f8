"""The common part of all imports: read a weights file and write a checkpoint of step 0."""

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
    """Write imported weights as the checkpoint of step 0, and return the exit code.

    Args:
      config: of the same network.
      workdir: new workdir.
      weights: path that the user gave.
      find_file: function from this path to the file to read; raises UserError if the path or the
        config cannot be used.
      to_params: function from ({name: array}, model of the config) to the parameters, f32. The
        message of its ValueError continues a sentence that names the file.

    Raises:
      UserError: the weights cannot be read or are of another network, or the workdir has a run.
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
                f"The weights in {file} do not match the network of the config: {error}; give the "
                "config of the network that they were trained with."
            ) from error
    _write_checkpoint(config, path, checkpoints, model, params, file)
    return EXIT_FINISHED


def _new_checkpoints(config: ConfigDict, workdir: epath.Path) -> Checkpointer:
    """Return the Checkpointer of a workdir without checkpoints.

    Raises:
      UserError: the workdir has checkpoints or another run.
    """
    check_identity(workdir, config)
    checkpoints = Checkpointer(workdir / "checkpoints", keep=config.checkpoint.keep)
    if checkpoints.latest_step() is not None:
        raise UserError(f"The workdir {workdir} already has checkpoints; give another one.")
    return checkpoints


def _read_weights(file: epath.Path) -> dict[str, np.ndarray]:
    """Return {name: array} of a `.safetensors` or PyTorch file.

    From a file that a training script saved with several state dicts, the EMA is read.

    Raises:
      UserError: the file cannot be read.
      ValueError: the file is damaged or has another format.
    """
    if file.suffix == ".safetensors":
        return safetensors.read_tensors(file)
    try:
        return pytorch.read_state_dict(file, inside="ema")
    except OSError as error:
        raise UserError(
            f"--weights is '{file}', which cannot be read ({error.strerror or error}); give a "
            "weights file."
        ) from error


def _write_checkpoint(
    config: ConfigDict,
    workdir: epath.Path,
    checkpoints: Checkpointer,
    model: from_config.Model,
    params: PyTree,
    file: epath.Path,
) -> None:
    """Save `params` as the weights and as every EMA, with the config and the origin.

    Args:
      config: of the same network.
      workdir: new workdir.
      checkpoints: of `_new_checkpoints`.
      model: of the config.
      params: of its network, f32; learned parameters of a loss weight start as in a new run.
      file: the weights file.
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
    print(f"{workdir}: wrote a checkpoint of step 0 with the {count:,} parameters in {file}")
