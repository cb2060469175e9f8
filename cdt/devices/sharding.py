"""The device mesh, the sharding of the state, and host batches as global arrays."""

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.experimental import mesh_utils
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

PyTree = Any


def make_mesh(data: int, fsdp: int, devices: Sequence[jax.Device] | None = None) -> Mesh:
    """Return a mesh with axes "data" (replicas) and "fsdp" (parameters split, ZeRO-3).

    Args:
      data, fsdp: sizes; -1, at most once, means the number of devices divided by the other size.
      devices: all by default; devices of one TPU slice or one GPU node become neighbours.

    Raises:
      ValueError: the sizes do not multiply to the number of devices.
    """
    devices = jax.devices() if devices is None else devices
    sizes = [data, fsdp]
    if sizes.count(-1) == 1:
        known = -data * fsdp
        if known > 0 and len(devices) % known == 0:
            sizes[sizes.index(-1)] = len(devices) // known
    if min(sizes) < 1 or sizes[0] * sizes[1] != len(devices):
        raise ValueError(
            f"config.mesh.data is {data} and config.mesh.fsdp is {fsdp}; their product must be "
            f"{len(devices)}, the number of devices: change one, or set one to -1 to compute it."
        )
    return Mesh(
        _placed(sizes[0], sizes[1], devices), ("data", "fsdp"), axis_types=(AxisType.Auto,) * 2
    )


def _placed(data: int, fsdp: int, devices: Sequence[jax.Device]) -> np.ndarray:
    """Return the devices as [data, fsdp], with fast links between neighbours.

    The network between TPU slices or GPU nodes is slower than the links within them, and "fsdp"
    exchanges more data than "data". So "data" crosses as many slices or nodes as possible, and
    "fsdp" crosses only the rest.
    """
    # `jax.make_mesh` supports one slice only, and on a TPU not every mesh of it.
    slices = Counter(getattr(device, "slice_index", 0) for device in devices)
    if len(slices) == 1 or len(set(slices.values())) > 1:
        return mesh_utils.create_device_mesh((data, fsdp), devices, allow_split_physical_axes=True)
    over = math.gcd(data, len(slices))
    rest = len(slices) // over
    return mesh_utils.create_hybrid_device_mesh(
        (data // over, fsdp // rest), (over, rest), devices, allow_split_physical_axes=True
    )


def replicated(mesh: Mesh) -> NamedSharding:
    """Return the sharding with a whole copy on every device."""
    return NamedSharding(mesh, P())


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """Return the sharding that splits the leading axis over all devices, along both mesh axes."""
    return NamedSharding(mesh, P(("data", "fsdp")))


def split_batch(mesh: Mesh) -> Callable[[jax.Array], jax.Array]:
    """Return constrain(x [B, ...]) -> x, which splits the leading axis over all devices.

    It does nothing to other axes, and leaves x whole if the devices do not divide B. Networks
    constrain the activations between their blocks. XLA then gathers parameters block by block
    instead of moving activations.
    """
    where = batch_sharding(mesh)

    def constrain(x: jax.Array) -> jax.Array:
        # Initialisation passes one example, which cannot be split.
        return jax.lax.with_sharding_constraint(x, where) if x.shape[0] % mesh.size == 0 else x

    return constrain


def state_sharding(mesh: Mesh, shapes: PyTree, min_size: int) -> PyTree:
    """Return a sharding for each leaf of the state.

    The largest dimension that the size of the fsdp axis divides is split. Leaves with fewer than
    `min_size` elements, or without such a dimension, are replicated. Optimizer moments and EMAs
    have the shapes of their parameters, so they get the same sharding.

    Raises:
      ValueError: the fsdp axis is larger than 1, and no leaf can be split.
    """
    fsdp = mesh.shape["fsdp"]

    def one(leaf: jax.ShapeDtypeStruct) -> NamedSharding:
        divisible = [d for d in range(len(leaf.shape)) if leaf.shape[d] % fsdp == 0]
        if fsdp == 1 or not divisible or np.prod(leaf.shape) < min_size:
            return replicated(mesh)
        axis = max(divisible, key=lambda d: leaf.shape[d])
        spec: list[str | None] = [None] * len(leaf.shape)
        spec[axis] = "fsdp"
        return NamedSharding(mesh, P(*spec))

    shardings = jax.tree.map(one, shapes)
    if fsdp > 1 and all(leaf.is_fully_replicated for leaf in jax.tree.leaves(shardings)):
        raise ValueError(
            f"config.mesh.fsdp is {fsdp}; it must divide a dimension of a tensor of {min_size} "
            "elements or more: give another size, or decrease config.mesh.min_shard_size."
        )
    return shardings


def local_rows(mesh: Mesh, batch_size: int) -> np.ndarray:
    """Return the rows of a global batch on the devices of this process, int64[b], ascending.

    The rows may have gaps, because the order of devices in the mesh may differ from the order of
    processes.
    """
    held = batch_sharding(mesh).addressable_devices_indices_map((batch_size,)).values()
    return np.unique(np.concatenate([np.arange(batch_size)[index] for index in held if index]))


def global_batch(
    mesh: Mesh, batch: Mapping[str, np.ndarray], batch_size: int
) -> dict[str, jax.Array]:
    """Return global arrays [batch_size, ...] that are split over the mesh.

    Args:
      mesh: devices; their number divides `batch_size`.
      batch: arrays with the `local_rows` of this process, or with all rows on every process.
      batch_size: size of the global batch.
    """
    sharding = batch_sharding(mesh)
    return {
        name: jax.make_array_from_process_local_data(sharding, x, (batch_size, *x.shape[1:]))
        for name, x in batch.items()
    }


def on_every_device(mesh: Mesh, tree: PyTree) -> PyTree:
    """Copy host arrays, the same on every process, to every device."""
    where = replicated(mesh)
    return jax.tree.map(
        lambda x: jax.make_array_from_callback(x.shape, where, lambda index: x[index]), tree
    )


def abstract(tree: PyTree, shardings: PyTree) -> PyTree:
    """Return shapes, dtypes and shardings without values, the target of a restored checkpoint."""
    return jax.tree.map(
        lambda leaf, where: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=where),
        tree,
        shardings,
    )


def abstract_batch(mesh: Mesh, batch: Mapping[str, np.ndarray], batch_size: int) -> PyTree:
    """Return the shapes of `global_batch`."""
    over_devices = batch_sharding(mesh)
    return {
        name: jax.ShapeDtypeStruct((batch_size, *x.shape[1:]), x.dtype, sharding=over_devices)
        for name, x in batch.items()
    }
