"""Takes over the weights of a class-conditional DiT or SiT.

    python -m cdt.interop.import_dit --weights=WEIGHTS --config=CONFIG --workdir=DIR

WEIGHTS is a file with the names of facebookresearch/DiT or willisma/SiT (`.pt`, also one that a
training program of theirs saved: then its averages are taken; or `.safetensors`), or a folder of
diffusers' DiTPipeline or DiTTransformer2DModel. PyTorch is not needed. CONFIG describes the same
network, such as configs/imagenet256_latent.py, or its variant `:sit`: of a config of flow matching
the weights are taken to be SiT's, whose time runs the other way.

DIR gets a checkpoint of step 0, in which the parameters and every average are those weights. The
same config samples from it with `--mode=sample`, and a run in another workdir starts from it with
`--config.init_from=DIR`. Exit codes are those of `cdt.main`.
"""

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
from cdt.interop.imported import command_line, import_weights
from cdt.interop.sit import mean_channels, reversed_time
from cdt.models.dit import DiT

PyTree = Any

# In a folder, in the order in which they are looked for.
_FILES = ("diffusion_pytorch_model.safetensors", "diffusion_pytorch_model.bin")


def import_dit(config: ConfigDict, workdir: epath.PathLike, weights: epath.PathLike) -> int:
    """Write the checkpoint; return the exit code. For arguments and errors see above and
    `import_weights`."""

    def find_file(path: epath.Path) -> epath.Path:
        network = from_config.dit(config)
        if config.process.name == "edm":
            raise UserError(
                "config.process.name is 'edm', for which there are no such weights; give a config "
                "of 'ddpm' (DiT) or 'flow' (SiT)."
            )
        return _file_in(path, network, config) if path.is_dir() else path

    return import_weights(
        config, workdir, weights, find_file,
        lambda state, model: _params(state, from_config.dit(config), config),
    )  # fmt: skip


def _file_in(folder: epath.Path, network: DiT, config: ConfigDict) -> epath.Path:
    """The weights in a folder of a pipeline or of its transformer, whose config is compared."""
    if (folder / "transformer").is_dir():
        folder = folder / "transformer"
    found = [folder / name for name in _FILES if (folder / name).exists()]
    if not found or not (folder / "config.json").exists():
        raise UserError(
            f"{folder} holds no DiTTransformer2DModel; it needs config.json and {_FILES[0]} (or "
            ".bin): give the folder of a DiTPipeline, or a file of weights."
        )
    try:
        content = json.loads((folder / "config.json").read_text())
        if not isinstance(content, dict):
            raise ValueError("it is no JSON object")
        check_transformer_config(content, network, config.data.channels, config.data.image_size)
    except ValueError as error:
        raise UserError(
            f"{folder / 'config.json'} does not describe the config's network: {error}; give the "
            "config of that network."
        ) from error
    return found[0]


def _params(state: dict[str, np.ndarray], network: DiT, config: ConfigDict) -> PyTree:
    """The parameters of `network`; a ValueError's message ends a sentence that names the file."""
    side, channels = config.data.image_size, config.data.channels
    x, one = np.zeros((1, side, side, channels), np.float32), np.zeros(1, np.float32)
    label = np.zeros(1, np.int32)
    shapes = jax.eval_shape(network.init, jax.random.key(0), x, one, label)["params"]
    flow = config.process.name == "flow"
    names = OFFICIAL if OFFICIAL.positions in state else DIFFUSERS
    if names is DIFFUSERS and flow:
        raise ValueError("its names are not those of SiT, the only one of flow matching")
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
    sys.exit(command_line(import_dit, "File of weights, or folder of diffusers."))
