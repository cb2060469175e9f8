"""Conversion of the parameters of EDM's networks to those of the ADM and DDPM++ U-Nets.

EDM's networks are DhariwalUNet, and SongUNet with the settings of DDPM++ (NVlabs/edm,
`training/networks.py`). Only names, axis order and the order of queries, keys and values differ, so
the conversion is exact, bit by bit.
"""

from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from cdt.interop.state_dict import LEAVES, StateDict, to_flax, torch_shape
from cdt.models.unet import Style

PyTree = Any

_CONDITION = {
    "time_in": "map_layer0",
    "time_out": "map_layer1",
    "label": "map_label",
    "augment_embed": "map_augment",
}
_BLOCK = {
    "norm_in": "norm0",
    "conv_in": "conv0",
    "condition": "affine",
    "norm_out": "norm1",
    "conv_out": "conv1",
    "skip": "skip",
    "attention/norm": "norm2",
    "attention/qkv": "qkv",
    "attention/out": "proj",
}
# Layers that are dense in cdt and 1x1 convolutions in EDM.
_ONE_PIXEL = ("skip", "qkv", "proj")
# Prefix of the names in a file that has the network inside its preconditioning.
_PREFIX = "model."


def to_params(state: Mapping[str, np.ndarray], shapes: PyTree, side: int, style: Style) -> PyTree:
    """Return the parameters of a U-Net in cdt from a state dict of EDM.

    Args:
      state: {name: array of any float dtype}.
      shapes: the tree that `UNet.init` has under "params", of objects with a shape.
      side: height of the images in pixels; EDM uses it in the names of blocks.
      style: `ADM` or `DDPMPP`.

    Returns:
      A tree like `shapes`, of f32 NumPy arrays.

    Raises:
      ValueError: an array is missing, unused or has another shape, or the downsampling filter is
        not the mean (as in NCSN++); the first problem is named. The message continues a sentence
        that names the file.
    """
    left = {name.removeprefix(_PREFIX): array for name, array in state.items()}
    for name in [name for name in left if name.endswith(".resample_filter")]:
        found = left.pop(name)
        if found.shape != (1, 1, 2, 2) or (found != 0.25).any():
            raise ValueError(f"its {name} is not the mean of 2x2 pixels")
    arrays = StateDict(left)
    halvings = max(int(name.split("_")[1]) for name in shapes if name.startswith("encoder_"))

    def parameter(path: tuple[jax.tree_util.DictKey, ...], leaf: Any) -> np.ndarray:
        *layer, kind = (key.key for key in path)
        theirs = _layer_name(layer, side, halvings, style)
        last = theirs.rpartition(".")[2]
        shape = torch_shape(leaf.shape)
        if kind == "kernel" and last in _ONE_PIXEL:
            shape = (*shape, 1, 1)
        array = to_flax(arrays.take(f"{theirs}.{LEAVES[kind]}", shape)).reshape(leaf.shape)
        if last == "qkv":
            # In EDM the order is [head, channel, q/k/v], in cdt [q/k/v, head, channel].
            width = leaf.shape[-1] // 3
            heads = max(1, width // (style.head_channels or width))
            apart = array.reshape(*array.shape[:-1], heads, width // heads, 3)
            array = np.moveaxis(apart, -1, -3).reshape(leaf.shape)
        return np.ascontiguousarray(array)

    params = jax.tree_util.tree_map_with_path(parameter, shapes)
    arrays.check_empty()
    return params


def _layer_name(layer: list[str], side: int, halvings: int, style: Style) -> str:
    """Convert ["encoder_1_0", "conv_in"] to "enc.8x8_block0.conv0" (for images of 16x16)."""
    first, *rest = layer
    if first == "condition":
        return _CONDITION[rest[0]]
    if first == "stem":
        return f"enc.{side}x{side}_conv"
    if first in ("final_norm", "final"):
        part = "norm" if first == "final_norm" else "conv"
        return f"out_{part}" if style.adaptive_scale else f"dec.{side}x{side}_aux_{part}"
    kind, *numbers = first.split("_")
    size = side >> (halvings if kind == "middle" else int(numbers[0]))
    half = "enc" if kind in ("down", "encoder") else "dec"
    if kind == "middle":
        block = f"in{numbers[0]}"
    else:
        block = kind if len(numbers) == 1 else f"block{numbers[1]}"
    return f"{half}.{size}x{size}_{block}.{_BLOCK['/'.join(rest)]}"
