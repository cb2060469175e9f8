"""Paths, types and checksums of the arrays in a tree, and conversion to nested dicts.

The path of a leaf is its keys joined by "/", such as "blocks/attention/kernel".
"""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import traverse_util

PyTree = Any


def named_leaves(tree: PyTree) -> dict[str, Any]:
    """Return {path: leaf} in the order of `jax.tree.leaves`.

    Raises:
      ValueError: two leaves have the same path, because a key contains "/".
    """
    pairs, _ = jax.tree_util.tree_flatten_with_path(tree)
    leaves = {jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in pairs}
    if len(leaves) < len(pairs):
        raise ValueError("Two leaves of a tree have the same path: a key contains '/'; rename it.")
    return leaves


def leaf_types(tree: PyTree) -> dict[str, str]:
    """Return {path: dtype and shape, such as "float32[3,4]"} of arrays or ShapeDtypeStructs."""
    return {
        path: f"{leaf.dtype}[{','.join(map(str, leaf.shape))}]"
        for path, leaf in named_leaves(tree).items()
    }


def placed(abstract: PyTree) -> PyTree:
    """Return the abstract tree with the first device as the sharding of leaves without one."""
    first = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    return jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=leaf.sharding or first),
        abstract,
    )


def to_nested(tree: PyTree) -> dict[str, Any]:
    """Return the leaves as nested dicts, without empty arrays, which Orbax refuses."""
    leaves = {path: leaf for path, leaf in named_leaves(tree).items() if leaf.size}
    return traverse_util.unflatten_dict(leaves, sep="/")


def from_nested(nested: Mapping[str, Any], abstract: PyTree) -> PyTree:
    """Return the tree of which `to_nested` made `nested`.

    Args:
      nested: result of `to_nested`.
      abstract: tree of jax.ShapeDtypeStruct; the containers, None and empty arrays come from it.
    """
    leaves = traverse_util.flatten_dict(nested, sep="/")
    return jax.tree.unflatten(
        jax.tree.structure(abstract),
        [
            leaves[path] if leaf.size else jnp.zeros(leaf.shape, leaf.dtype, device=leaf.sharding)
            for path, leaf in named_leaves(abstract).items()
        ],
    )


def leaf_checksums(tree: PyTree) -> dict[str, jax.Array]:
    """Return a checksum of every array in a tree, computed on the devices of the array.

    A checksum is the sum, modulo 2^32, of the bits of each element times an odd number that depends
    on the flat position. A flipped bit changes its term by an odd multiple of a power of two below
    2^32. This is never 0, so every single flipped bit is detected. Sums modulo 2^32 are exact in
    any order, so the result is independent of the mesh and the number of processes. Only one number
    a leaf is gathered.

    Args:
      tree: arrays of bool, integers or real floating-point numbers.

    Returns:
      {path: uint32[]}.
    """
    checksums = {}
    for path, leaf in named_leaves(tree).items():
        checksums[path] = _checksum(leaf)
        # Simulated CPU devices share a few threads. Many programs that wait for all devices can
        # deadlock if they run at the same time, so run one after the other.
        if jax.default_backend() == "cpu":
            jax.block_until_ready(checksums[path])
    return checksums


@jax.jit
def _checksum(x: jax.Array) -> jax.Array:
    if x.dtype == bool:
        x = x.astype(jnp.uint8)
    word = {1: jnp.uint8, 2: jnp.uint16}.get(x.dtype.itemsize, jnp.uint32)
    bits = jax.lax.bitcast_convert_type(x, word).astype(jnp.uint32)
    position = jnp.zeros(bits.shape, jnp.uint32)
    for axis, size in enumerate(bits.shape):
        index = jax.lax.broadcasted_iota(jnp.uint32, bits.shape, axis)
        position = position * jnp.uint32(size) + index
    # The finalizer of MurmurHash3. Without it the factors of neighbours are similar, and errors of
    # several bits could cancel.
    position = (position ^ (position >> 16)) * jnp.uint32(0x85EBCA6B)
    position = (position ^ (position >> 13)) * jnp.uint32(0xC2B2AE35)
    odd = (position ^ (position >> 16)) | jnp.uint32(1)
    return jnp.sum(bits * odd, dtype=jnp.uint32)
