"""Reading of an AutoencoderKL of `diffusers`: config.json to a network, weights to parameters."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import DictKey

from cdt.interop.state_dict import LEAVES, StateDict, to_flax, torch_shape
from cdt.models.autoencoder import Autoencoder

PyTree = Any

# Keys of config.json for which `Autoencoder` supports only one value.
_FIXED = {
    "_class_name": "AutoencoderKL",
    "act_fn": "silu",
    "use_quant_conv": True,
    "use_post_quant_conv": True,
    "mid_block_add_attention": True,
}
_BLOCK_TYPES = {"down_block_types": "DownEncoderBlock2D", "up_block_types": "UpDecoderBlock2D"}
_SIZES = {
    "block_out_channels": "block_channels",
    "layers_per_block": "layers_per_block",
    "latent_channels": "latent_channels",
    "in_channels": "image_channels",
    "norm_num_groups": "groups",
}
# Names of attention layers before diffusers 0.17 -> names since then.
_RENAMED = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}


def autoencoder_of(config: Mapping[str, Any]) -> Autoencoder:
    """Return the network that the config.json of a diffusers AutoencoderKL describes.

    Args:
      config: content of the file; missing sizes are those of Stable Diffusion.

    Raises:
      ValueError: it describes another network. The message continues a sentence that names the
        file.
    """
    for key, wanted in _FIXED.items():
        if config.get(key, wanted) != wanted:
            raise ValueError(f"its {key} is {config[key]!r}, not {wanted!r}")
    for key, wanted in _BLOCK_TYPES.items():
        if other := set(config.get(key, ())) - {wanted}:
            raise ValueError(f"its {key} has {min(other)!r}; only {wanted!r} is supported")
    sizes = {ours: config[theirs] for theirs, ours in _SIZES.items() if theirs in config}
    for name, size in sizes.items():
        numbers = size if name == "block_channels" and isinstance(size, list) else [size]
        if not numbers or any(type(number) is not int or number < 1 for number in numbers):
            raise ValueError(f"its {name} is {size!r}; it must be of positive integers")
    if "block_channels" in sizes:
        sizes["block_channels"] = tuple(sizes["block_channels"])
    return Autoencoder(**sizes)


def autoencoder_params(network: Autoencoder, state: Mapping[str, np.ndarray]) -> PyTree:
    """Return the parameters of `network` from a state dict of diffusers.

    Args:
      network: the weights must have its sizes.
      state: {name: array of any float dtype}. The attention layers may have the current names
        (`to_q`, `to_k`, `to_v`, `to_out.0`) or the former (`query`, `key`, `value`, `proj_attn`).

    Returns:
      The tree that `network.init` has under "params", of f32 NumPy arrays.

    Raises:
      ValueError: an array is missing, unused or has another shape; the first one is named. The
        message continues a sentence that names the file.
    """
    arrays = StateDict({_renamed(name): array for name, array in state.items()})
    side = network.downsampling
    images = jax.ShapeDtypeStruct((1, side, side, network.image_channels), jnp.float32)
    shapes = jax.eval_shape(network.init, jax.random.key(0), images)["params"]

    def take(path: Sequence[DictKey], leaf: jax.ShapeDtypeStruct) -> np.ndarray:
        name = _diffusers_name([key.key for key in path])
        return to_flax(arrays.take(name, torch_shape(leaf.shape)))

    params = jax.tree_util.tree_map_with_path(take, shapes)
    arrays.check_empty()
    return params


def _renamed(name: str) -> str:
    return ".".join(_RENAMED.get(part, part) for part in name.split("."))


def _diffusers_name(parts: list[str]) -> str:
    """Convert ["encoder", "down_blocks_0", ..., "kernel"] to "encoder.down_blocks.0....weight"."""
    *modules, leaf = parts
    return ".".join([*(re.sub(r"_(\d+)$", r".\1", module) for module in modules), LEAVES[leaf]])
