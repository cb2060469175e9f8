"""The device mesh, who holds which part of the state, and host batches as global arrays."""

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
    """A mesh with axes "data" (replicas) and "fsdp" (parameters split, ZeRO-3).

    Args:
      data, fsdp: sizes; -1, at most once, is whatever the other leaves over.
      devices: default all; those of one slice of a TPU or one node of GPUs become neighbours.

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
            f"A mesh of data={data} x fsdp={fsdp} does not fit {len(devices)} device(s); the two "
            "must multiply to that number (-1, once, is what is left)."
        )
    return Mesh(
        _placed(sizes[0], sizes[1], devices), ("data", "fsdp"), axis_types=(AxisType.Auto,) * 2
    )


def _placed(data: int, fsdp: int, devices: Sequence[jax.Device]) -> np.ndarray:
    """The devices as [data, fsdp], such that neighbours in the mesh have fast links.

    Slices of a TPU, or nodes of GPUs, are joined by a network that is slower than the links within
    them. So replicas are laid over as many of them as there are replicas for, and "fsdp" crosses
    only what is left: it exchanges the more.
    """
    # `jax.make_mesh` places devices of one slice alone, and on a TPU some meshes of it not at all.
    slices = Counter(getattr(device, "slice_index", 0) for device in devices)
    if len(slices) == 1 or len(set(slices.values())) > 1:
        return mesh_utils.create_device_mesh((data, fsdp), devices, allow_split_physical_axes=True)
    over = math.gcd(data, len(slices))
    rest = len(slices) // over
    return mesh_utils.create_hybrid_device_mesh(
        (data // over, fsdp // rest), (over, rest), devices, allow_split_physical_axes=True
    )


def replicated(mesh: Mesh) -> NamedSharding:
    """Every device holds the whole."""
    return NamedSharding(mesh, P())


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """The leading axis is split over all devices; both axes carry data."""
    return NamedSharding(mesh, P(("data", "fsdp")))


def split_batch(mesh: Mesh) -> Callable[[jax.Array], jax.Array]:
    """Return constrain(x [B, ...]) -> x, its leading axis split over all devices where they divide
    it, and every other axis whole.

    Networks constrain what passes between their blocks. The partitioner then gathers parameters,
    block by block, to where the examples are, instead of moving activations to the parameters.
    """
    where = batch_sharding(mesh)

    def constrain(x: jax.Array) -> jax.Array:
        # Initialisation passes one example, which cannot be split.
        return jax.lax.with_sharding_constraint(x, where) if x.shape[0] % mesh.size == 0 else x

    return constrain


def state_sharding(mesh: Mesh, shapes: PyTree, min_size: int) -> PyTree:
    """A sharding for each leaf: its largest dimension that the fsdp axis divides is split; leaves
    of fewer than `min_size` elements, and those nothing divides, are replicated.

    Optimizer moments and averages have the shapes of their parameters, hence the same sharding.

    Raises:
      ValueError: there are several devices to split leaves over, and not one leaf to split.
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
            f"config.mesh.fsdp is {fsdp}, which splits nothing: it divides no side of a tensor of "
            f"{min_size} elements or more; give another, or lower config.mesh.min_shard_size."
        )
    return shardings


def local_rows(mesh: Mesh, batch_size: int) -> np.ndarray:
    """The rows of a global batch that the devices of this process hold, int64[b], ascending.

    They need not be neighbours: a mesh may have its devices in another order than the processes.
    """
    held = batch_sharding(mesh).addressable_devices_indices_map((batch_size,)).values()
    return np.unique(np.concatenate([np.arange(batch_size)[index] for index in held if index]))


def global_batch(
    mesh: Mesh, batch: Mapping[str, np.ndarray], batch_size: int
) -> dict[str, jax.Array]:
    """Arrays [batch_size, ...] split over the mesh.

    Args:
      mesh: devices, which divide `batch_size`.
      batch: arrays of this process's `local_rows`, or the whole on every process.
      batch_size: of the global batch.
    """
    sharding = batch_sharding(mesh)
    return {
        name: jax.make_array_from_process_local_data(sharding, x, (batch_size, *x.shape[1:]))
        for name, x in batch.items()
    }


def on_every_device(mesh: Mesh, tree: PyTree) -> PyTree:
    """Host arrays, the same on every process, as arrays that every device holds whole."""
    where = replicated(mesh)
    return jax.tree.map(
        lambda x: jax.make_array_from_callback(x.shape, where, lambda index: x[index]), tree
    )


def abstract(tree: PyTree, shardings: PyTree) -> PyTree:
    """Shapes, dtypes and shardings without values, as a checkpoint is restored into."""
    return jax.tree.map(
        lambda leaf, where: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=where),
        tree,
        shardings,
    )


def abstract_batch(mesh: Mesh, batch: Mapping[str, np.ndarray], batch_size: int) -> PyTree:
    """The shapes of `global_batch`."""
    over_devices = batch_sharding(mesh)
    return {
        name: jax.ShapeDtypeStruct((batch_size, *x.shape[1:]), x.dtype, sharding=over_devices)
        for name, x in batch.items()
    }
