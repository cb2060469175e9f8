"""The parameters of ADM and DDPM++ U-Nets from those of EDM's own networks (NVlabs/edm,
`training/networks.py`: DhariwalUNet, and SongUNet with the settings of DDPM++).

Nothing but the names, the order of axes and that of queries, keys and values differs, so they are
taken over bit by bit.
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
# Dense layers of ours that are convolutions with a kernel of one pixel there.
_ONE_PIXEL = ("skip", "qkv", "proj")
# Of the whole, where a file holds the network within its preconditioning.
_PREFIX = "model."


def to_params(state: Mapping[str, np.ndarray], shapes: PyTree, side: int, style: Style) -> PyTree:
    """Our parameters from EDM's.

    Args:
      state: {name: array of any float type}.
      shapes: the tree that `UNet.init` has under "params", of anything with a shape.
      side: height of the images, by which EDM names its blocks.
      style: `ADM` or `DDPMPP`.

    Returns:
      The tree of `shapes`, of f32 NumPy arrays.

    Raises:
      ValueError: an array is missing, left over or of another shape, or images are halved by
        another filter than the mean, as in NCSN++; the first such is named. The message ends a
        sentence that names the file.
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
            # [head, channel] of [q, k, v] there, [q, k, v] of [head, channel] here.
            width = leaf.shape[-1] // 3
            heads = max(1, width // (style.head_channels or width))
            apart = array.reshape(*array.shape[:-1], heads, width // heads, 3)
            array = np.moveaxis(apart, -1, -3).reshape(leaf.shape)
        return np.ascontiguousarray(array)

    params = jax.tree_util.tree_map_with_path(parameter, shapes)
    arrays.check_empty()
    return params


def _layer_name(layer: list[str], side: int, halvings: int, style: Style) -> str:
    """["encoder_1_0", "conv_in"] -> "enc.8x8_block0.conv0" of images of 16x16, and so on."""
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
    room = "enc" if kind in ("down", "encoder") else "dec"
    if kind == "middle":
        block = f"in{numbers[0]}"
    else:
        block = kind if len(numbers) == 1 else f"block{numbers[1]}"
    return f"{room}.{size}x{size}_{block}.{_BLOCK['/'.join(rest)]}"
