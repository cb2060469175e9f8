"""Conversion of the parameters of a class-conditional DiT from and to the names of other programs.

There are two sets of names: those of the `.pt` files of DiT and SiT, and those of diffusers'
DiTTransformer2DModel. Only names, axis order and the number of copies differ, so the conversion is
exact, bit by bit.
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
    """Layer names of another program.

    Attributes:
      layers: layer in cdt -> its names there. "*" is the number of a block. If our layer is stacked
        [depth, ...], each block has its slice; otherwise each block has a copy. With several names,
        each has an equal part of the output axis.
      positions: name of the fixed table of positions [1, N, D]; None if it is not stored.
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
    """Return the parameters of a DiT in cdt from the state dict of another program.

    Args:
      state: {name: array of any float dtype}; the table of classes may have unused classes, see
        `with_unused_classes`.
      names: `OFFICIAL` or `DIFFUSERS`.
      shapes: the tree that `DiT.init` has under "params", of objects with a shape.
      patch_size: p of the network.
      side: tokens along each side of an image.

    Returns:
      A tree like `shapes`, of f32 NumPy arrays.

    Raises:
      ValueError: an array is missing, unused or has another shape, copies of a layer differ, or
        the table of positions differs; the first problem is named. The message continues a sentence
        that names the file.
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
                    f"its {_name(parts[0], kind, block)} differs from that of block 0, but all "
                    "blocks of this network share this layer"
                )
        return first

    params = jax.tree_util.tree_map_with_path(parameter, shapes)
    if names.positions is not None:
        table = position_embedding(side, side, shapes["final_adaln"]["kernel"].shape[0])
        found = arrays.take(names.positions, (1, *table.shape))
        if not np.allclose(found, table, rtol=0, atol=1e-5):
            raise ValueError(f"its {names.positions} is not DiT's table of sines and cosines")
    arrays.check_empty()
    return params


def from_params(params: PyTree, names: Names, patch_size: int, side: int) -> dict[str, np.ndarray]:
    """Return the state dict of another program; inverse of `to_params`.

    Args:
      params: parameters of a class-conditional DiT, f32.
      names, patch_size, side: see `to_params`.

    Returns:
      {name: f32 array} in the layout of PyTorch.
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
    """Extend a class table [n + 1, D] to [num_classes + 1, D] with copies of the null class.

    The last row is the null class. The added classes therefore mean "no class". `to_params` removes
    the copies.
    """
    return np.concatenate([table, table[-1:].repeat(num_classes + 1 - len(table), 0)])


def _without_unused_classes(name: str, table: np.ndarray, num_classes: int) -> np.ndarray:
    """Return the rows of the classes and of the null class; later rows must be copies of it."""
    short = table.ndim != 2 or len(table) <= num_classes
    if short or (table[num_classes:] != table[num_classes]).any():
        raise ValueError(
            f"its {name} is {list(table.shape)}, which is not a table of {num_classes} classes and "
            "a null class"
        )
    return table[: num_classes + 1]


def _split(path: Sequence[DictKey]) -> tuple[str, str]:
    """Split the path of a leaf into a key of `Names.layers` and its kind, such as "kernel"."""
    *layer, kind = (key.key for key in path)
    return "/".join(layer), kind


def _name(layer: str, kind: str, block: int) -> str:
    return f"{layer.replace('*', str(block))}.{LEAVES[kind]}"


def _torch_shape(layer: str, kind: str, shape: tuple[int, ...], patch: int) -> tuple[int, ...]:
    if layer == "patch_embed" and kind == "kernel":  # a convolution in PyTorch
        return (shape[1], shape[0] // patch**2, patch, patch)
    return torch_shape(shape) if kind == "kernel" else shape


def _to_ours(layer: str, kind: str, array: np.ndarray) -> np.ndarray:
    """Convert kernels: [out, in] -> [in, out], of the patches [D, C, p, p] -> [p p C, D]."""
    if kind != "kernel":
        return array
    array = to_flax(array)
    return array.reshape(-1, array.shape[-1]) if layer == "patch_embed" else array


def _to_theirs(layer: str, kind: str, array: np.ndarray, patch: int) -> np.ndarray:
    """Convert kernels in the other direction than `_to_ours`."""
    if layer == "patch_embed" and kind == "kernel":
        return array.reshape(patch, patch, -1, array.shape[1]).transpose(3, 2, 0, 1)
    return array.T if kind == "kernel" else array
