"""A class-conditional DiT's parameters under the names that other programs give them.

Two forms are known: that of DiT's and SiT's own `.pt` files, and that of diffusers'
DiTTransformer2DModel. Nothing but the names, the order of axes and the number of copies differs, so
both directions are exact, bit by bit.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.tree_util import DictKey

from cdt.interop.state_dict import LEAVES, StateDict, to_flax, torch_shape
from cdt.models.layers import position_embedding

PyTree = Any


class Names(NamedTuple):
    """How a program names the layers.

    Attributes:
      layers: our layer -> theirs. "*" stands for the number of a block: under one of our stacked
        layers [depth, ...] each block has its own, under another layer each has a copy. Of several
        names each has an equal part of the output.
      positions: the fixed table of positions [1, N, D], where it is stored among the weights.
    """

    layers: Mapping[str, tuple[str, ...]]
    positions: str | None


# facebookresearch/DiT and willisma/SiT.
OFFICIAL = Names(
    layers={
        "patch_embed": ("x_embedder.proj",),
        "time_embed/in": ("t_embedder.mlp.0",),
        "time_embed/out": ("t_embedder.mlp.2",),
        "label_embed": ("y_embedder.embedding_table",),
        "blocks/adaln": ("blocks.*.adaLN_modulation.1",),
        "blocks/attention/qkv": ("blocks.*.attn.qkv",),
        "blocks/attention/out": ("blocks.*.attn.proj",),
        "blocks/mlp/in": ("blocks.*.mlp.fc1",),
        "blocks/mlp/out": ("blocks.*.mlp.fc2",),
        "final_adaln": ("final_layer.adaLN_modulation.1",),
        "final": ("final_layer.linear",),
    },
    positions="pos_embed",
)
_BLOCK = "transformer_blocks.*"
DIFFUSERS = Names(
    layers={
        "patch_embed": ("pos_embed.proj",),
        "time_embed/in": (f"{_BLOCK}.norm1.emb.timestep_embedder.linear_1",),
        "time_embed/out": (f"{_BLOCK}.norm1.emb.timestep_embedder.linear_2",),
        "label_embed": (f"{_BLOCK}.norm1.emb.class_embedder.embedding_table",),
        "blocks/adaln": (f"{_BLOCK}.norm1.linear",),
        "blocks/attention/qkv": tuple(f"{_BLOCK}.attn1.to_{part}" for part in "qkv"),
        "blocks/attention/out": (f"{_BLOCK}.attn1.to_out.0",),
        "blocks/mlp/in": (f"{_BLOCK}.ff.net.0.proj",),
        "blocks/mlp/out": (f"{_BLOCK}.ff.net.2",),
        "final_adaln": ("proj_out_1",),
        "final": ("proj_out_2",),
    },
    positions=None,
)


def to_params(
    state: Mapping[str, np.ndarray], names: Names, shapes: PyTree, patch_size: int, side: int
) -> PyTree:
    """Our parameters from another program's.

    Args:
      state: {name: array of any float type}; its table of classes may have unused ones, see
        `with_unused_classes`.
      names: `OFFICIAL` or `DIFFUSERS`.
      shapes: the tree that `DiT.init` has under "params", of anything with a shape.
      patch_size: p of the network.
      side: tokens along each side of an image.

    Returns:
      The tree of `shapes`, of f32 NumPy arrays.

    Raises:
      ValueError: an array is missing, left over or of another shape, copies of a layer differ, or
        the table of positions is another; the first such is named. The message ends a sentence that
        names the file.
    """
    left = dict(state)
    depth = shapes["blocks"]["adaln"]["bias"].shape[0]
    for block in range(depth):
        name = _name(names.layers["label_embed"][0], "table", block)
        if name in left:
            num_classes = shapes["label_embed"]["table"].shape[0] - 1
            left[name] = _without_unused_classes(name, left[name], num_classes)

    arrays = StateDict(left)

    def parameter(path: Sequence[DictKey], leaf: jax.ShapeDtypeStruct) -> np.ndarray:
        layer, kind = _split(path)
        parts = names.layers[layer]
        stacked = layer.startswith("blocks/")
        shape = _torch_shape(layer, kind, leaf.shape[stacked:], patch_size)
        shape = (shape[0] // len(parts), *shape[1:])

        def one(block: int) -> np.ndarray:
            found = [arrays.take(_name(part, kind, block), shape) for part in parts]
            return _to_ours(layer, kind, np.concatenate(found))

        if stacked:
            return np.stack([one(block) for block in range(depth)])
        first, *copies = (one(block) for block in range(depth if "*" in parts[0] else 1))
        for block, copy in enumerate(copies, 1):
            if not np.array_equal(first, copy):
                raise ValueError(
                    f"its {_name(parts[0], kind, block)} differs from that of block 0, where all "
                    "blocks of this network share one"
                )
        return first

    params = jax.tree_util.tree_map_with_path(parameter, shapes)
    if names.positions is not None:
        table = position_embedding(side, side, shapes["final_adaln"]["kernel"].shape[0])
        found = arrays.take(names.positions, (1, *table.shape))
        if not np.allclose(found, table, rtol=0, atol=1e-5):
            raise ValueError(f"its {names.positions} is not the table of sines and cosines of DiT")
    arrays.check_empty()
    return params


def from_params(params: PyTree, names: Names, patch_size: int, side: int) -> dict[str, np.ndarray]:
    """Inverse of `to_params`: {name: f32 array}, with the layout of PyTorch.

    Args:
      params: those of a class-conditional DiT, f32.
      names, patch_size, side: see `to_params`.
    """
    state = {}
    depth = params["blocks"]["adaln"]["bias"].shape[0]
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        layer, kind = _split(path)
        parts = names.layers[layer]
        stacked = layer.startswith("blocks/")
        for block in range(depth if "*" in parts[0] else 1):
            array = np.asarray(leaf[block] if stacked else leaf)
            array = _to_theirs(layer, kind, array, patch_size)
            for part, values in zip(parts, np.split(array, len(parts)), strict=True):
                state[_name(part, kind, block)] = np.ascontiguousarray(values)
    if names.positions is not None:
        width = params["final_adaln"]["kernel"].shape[0]
        state[names.positions] = position_embedding(side, side, width)[None]
    return state


def with_unused_classes(table: np.ndarray, num_classes: int) -> np.ndarray:
    """A table [n + 1, D] with copies of its last row, the null class, up to `num_classes` + 1.

    The network is the same, and any class that it does not know is none. `to_params` leaves the
    copies out again.
    """
    return np.concatenate([table, table[-1:].repeat(num_classes + 1 - len(table), 0)])


def _without_unused_classes(name: str, table: np.ndarray, num_classes: int) -> np.ndarray:
    """The rows of the classes and of the null class, which every other row equals."""
    short = table.ndim != 2 or len(table) <= num_classes
    if short or (table[num_classes:] != table[num_classes]).any():
        raise ValueError(
            f"its {name} is {list(table.shape)}, which is not that of {num_classes} classes and "
            "one for none"
        )
    return table[: num_classes + 1]


def _split(path: Sequence[DictKey]) -> tuple[str, str]:
    """A leaf's path -> its layer, as in `Names.layers`, and what it is there."""
    *layer, kind = (key.key for key in path)
    return "/".join(layer), kind


def _name(layer: str, kind: str, block: int) -> str:
    return f"{layer.replace('*', str(block))}.{LEAVES[kind]}"


def _torch_shape(layer: str, kind: str, shape: tuple[int, ...], patch: int) -> tuple[int, ...]:
    if layer == "patch_embed" and kind == "kernel":  # there a convolution's
        return (shape[1], shape[0] // patch**2, patch, patch)
    return torch_shape(shape) if kind == "kernel" else shape


def _to_ours(layer: str, kind: str, array: np.ndarray) -> np.ndarray:
    """Linear layers [out, in] -> [in, out], the patches' convolution [D, C, p, p] -> [p p C, D]."""
    if kind != "kernel":
        return array
    array = to_flax(array)
    return array.reshape(-1, array.shape[-1]) if layer == "patch_embed" else array


def _to_theirs(layer: str, kind: str, array: np.ndarray, patch: int) -> np.ndarray:
    """Inverse of `_to_ours`."""
    if layer == "patch_embed" and kind == "kernel":
        return array.reshape(patch, patch, -1, array.shape[1]).transpose(3, 2, 0, 1)
    return array.T if kind == "kernel" else array
