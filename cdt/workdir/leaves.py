"""Trees of arrays as named leaves: their paths, types and checksums, and a form to store.

A leaf's path is its keys joined by "/", such as "blocks/attention/kernel".
"""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import traverse_util

PyTree = Any


def named_leaves(tree: PyTree) -> dict[str, Any]:
    """{path: leaf}, in the order of `jax.tree.leaves`.

    Raises:
      ValueError: two leaves have the same path, as a key contains a "/".
    """
    pairs, _ = jax.tree_util.tree_flatten_with_path(tree)
    leaves = {jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in pairs}
    if len(leaves) < len(pairs):
        raise ValueError("Two leaves of a tree have the same path, as a key contains a '/'.")
    return leaves


def leaf_types(tree: PyTree) -> dict[str, str]:
    """{path: type and shape as in "float32[3,4]"} of arrays or jax.ShapeDtypeStruct."""
    return {
        path: f"{leaf.dtype}[{','.join(map(str, leaf.shape))}]"
        for path, leaf in named_leaves(tree).items()
    }


def placed(abstract: PyTree) -> PyTree:
    """The abstract tree, with the first device for every leaf that has no sharding."""
    first = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    return jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=leaf.sharding or first),
        abstract,
    )


def to_nested(tree: PyTree) -> dict[str, Any]:
    """The leaves as nested dicts, without those that have no element: Orbax refuses these."""
    leaves = {path: leaf for path, leaf in named_leaves(tree).items() if leaf.size}
    return traverse_util.unflatten_dict(leaves, sep="/")


def from_nested(nested: Mapping[str, Any], abstract: PyTree) -> PyTree:
    """Inverse of `to_nested` for a tree of the structure and types of `abstract`.

    Args:
      nested: what `to_nested` returned.
      abstract: tree of jax.ShapeDtypeStruct, which gives containers, None and empty arrays.
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
    """Checksum of every array of a tree, computed where the array lives.

    The sum, modulo 2^32, of each element's bits times an odd number derived from the element's
    flat position. A flipped bit changes a term by an odd multiple of a power of two below 2^32,
    which is never 0, so every single flipped bit is seen. Sums modulo 2^32 are exact in any
    order: the result depends neither on the mesh nor on the number of processes, and nothing is
    gathered but one number a leaf.

    Args:
      tree: arrays of bool, integer or real floating-point type.

    Returns:
      {path: uint32[]}.
    """
    checksums = {}
    for path, leaf in named_leaves(tree).items():
        checksums[path] = _checksum(leaf)
        # Simulated devices share a few threads: of many programs in flight together, each of which
        # waits for all devices, one can keep another from ever being started on its last device.
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
    # The finaliser of MurmurHash3: without it the numbers of neighbours are alike, and errors of
    # several bits could cancel.
    position = (position ^ (position >> 16)) * jnp.uint32(0x85EBCA6B)
    position = (position ^ (position >> 13)) * jnp.uint32(0xC2B2AE35)
    odd = (position ^ (position >> 16)) | jnp.uint32(1)
    return jnp.sum(bits * odd, dtype=jnp.uint32)
