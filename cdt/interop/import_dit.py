"""Import the weights of a class-conditional DiT or SiT; PyTorch is not needed.

Usage:
  python -m cdt.interop.import_dit --weights=PATH --config=FILE[:VARIANT]
      --workdir=DIR [--config.KEY=VALUE ...]

Flags:
  --weights=PATH        file of facebookresearch/DiT or willisma/SiT (.pt or
                        .safetensors), or folder of a diffusers DiTPipeline or
                        DiTTransformer2DModel
  --config=FILE         config of the same network; with process.name = "flow"
                        the weights are read as SiT's, otherwise as DiT's
  --workdir=DIR         new workdir; it gets a checkpoint of step 0
  --config.KEY=VALUE    change a config key

Example:
  python -m cdt.interop.import_dit --weights=DiT-XL-2-256x256.pt \\
      --config=configs/imagenet256_latent.py --workdir=runs/dit

From a .pt file that a training script saved, the EMA is read. In the checkpoint
the weights and all EMAs are the imported weights. `--mode=sample` with the same
config and workdir samples from it. A run in another workdir starts from it with
--config.init_from=DIR. The exit codes are those of `python -m cdt.main --help`.
"""

from cdt import usage

if __name__ == "__main__":  # answered before the imports below, which load JAX
    usage.answer_and_exit(__doc__)

import json
import sys
from typing import Any

import jax
import numpy as np
from etils import epath
from ml_collections import ConfigDict

from cdt import from_config
from cdt.errors import UserError
from cdt.interop.diffusers_files import check_transformer_config
from cdt.interop.dit_names import DIFFUSERS, OFFICIAL, to_params
from cdt.interop.imported import import_weights
from cdt.interop.sit import mean_channels, reversed_time
from cdt.models.dit import DiT

PyTree = Any

# Weights files in a folder, in order of preference.
_FILES = ("diffusion_pytorch_model.safetensors", "diffusion_pytorch_model.bin")


def import_dit(config: ConfigDict, workdir: epath.PathLike, weights: epath.PathLike) -> int:
    """Write the checkpoint of step 0 and return the exit code; see `import_weights`."""

    def find_file(path: epath.Path) -> epath.Path:
        network = from_config.dit(config)
        if config.process.name == "edm":
            raise UserError(
                "config.process.name is 'edm'; give a config with 'ddpm' to import DiT, or with "
                "'flow' to import SiT."
            )
        return _file_in(path, network, config) if path.is_dir() else path

    return import_weights(
        config, workdir, weights, find_file,
        lambda state, model: _params(state, from_config.dit(config), config),
    )  # fmt: skip


def _file_in(folder: epath.Path, network: DiT, config: ConfigDict) -> epath.Path:
    """Return the weights file in the folder of a pipeline or transformer; check its config.json."""
    if (folder / "transformer").is_dir():
        folder = folder / "transformer"
    found = [folder / name for name in _FILES if (folder / name).exists()]
    if not found or not (folder / "config.json").exists():
        raise UserError(
            f"{folder} has no DiTTransformer2DModel (config.json and {_FILES[0]} or .bin); give "
            "the folder of a DiTPipeline, or a weights file."
        )
    try:
        content = json.loads((folder / "config.json").read_text())
        if not isinstance(content, dict):
            raise ValueError("it is not a JSON object")
        check_transformer_config(content, network, config.data.channels, config.data.image_size)
    except ValueError as error:
        raise UserError(
            f"{folder / 'config.json'} does not describe the network of the config: {error}; give "
            "a config of the same network."
        ) from error
    return found[0]


def _params(state: dict[str, np.ndarray], network: DiT, config: ConfigDict) -> PyTree:
    """Return the parameters of `network`, or raise ValueError as `to_params` does."""
    side, channels = config.data.image_size, config.data.channels
    x, one = np.zeros((1, side, side, channels), np.float32), np.zeros(1, np.float32)
    label = np.zeros(1, np.int32)
    shapes = jax.eval_shape(network.init, jax.random.key(0), x, one, label)["params"]
    flow = config.process.name == "flow"
    names = OFFICIAL if OFFICIAL.positions in state else DIFFUSERS
    if names is DIFFUSERS and flow:
        raise ValueError("its names are not those of SiT, but config.process.name is 'flow'")
    last = f"{OFFICIAL.layers['final'][0]}.bias"
    if flow and last in state and state[last].size == 2 * shapes["final"]["bias"].size:
        state = state | {
            name: mean_channels(state[name], channels)
            for name in (last, last.replace("bias", "weight"))
            if name in state
        }
    params = to_params(state, names, shapes, network.patch_size, side // network.patch_size)
    return reversed_time(params) if flow else params


if __name__ == "__main__":
    from cdt.main import run_command_line

    sys.exit(run_command_line(sys.argv, import_dit, ("weights",)))
