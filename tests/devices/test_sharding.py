from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cdt.devices import sharding


@pytest.mark.parametrize(
    ("given", "shape"),
    [((8, 1), (8, 1)), ((-1, 1), (8, 1)), ((-1, 4), (2, 4)), ((2, -1), (2, 4)), ((1, 8), (1, 8))],
)
def test_mesh_sizes(given, shape):
    mesh = sharding.make_mesh(*given)
    assert (mesh.shape["data"], mesh.shape["fsdp"]) == shape


@pytest.mark.parametrize("given", [(3, 1), (-1, 3), (-1, -1), (0, 8), (4, 4), (-1, 0), (-2, -4)])
def test_meshes_that_do_not_fit(given):
    with pytest.raises(ValueError, match="product must be 8, the number of devices"):
        sharding.make_mesh(*given)


@dataclass(frozen=True, order=True)
class NodeGpu:
    """As much of a device as placing it takes: JAX calls the nodes of a GPU cluster slices."""

    id: int
    slice_index: int
    platform: str = "gpu"
    device_kind: str = "NVIDIA H100"


@pytest.mark.parametrize(
    ("slices", "given", "of_fsdp", "of_data"),  # slices that one row, and one column, reaches over
    [(4, (-1, 1), 1, 4), (4, (-1, 8), 1, 4), (4, (2, 16), 2, 2), (4, (1, 32), 4, 1),
     (3, (-1, 4), 1, 3), (6, (4, 12), 3, 2)],
)  # fmt: skip
def test_the_state_is_split_within_a_slice_where_it_can(slices, given, of_fsdp, of_data):
    gpus = [NodeGpu(i, i // 8) for i in range(8 * slices)]
    mesh = sharding.make_mesh(*given, gpus)
    assert sorted(mesh.devices.flat) == gpus
    indices = np.vectorize(lambda gpu: gpu.slice_index)(mesh.devices)
    assert {len(set(row)) for row in indices} == {of_fsdp}
    assert {len(set(column)) for column in indices.T} == {of_data}


def test_slices_of_different_sizes():
    gpus = [NodeGpu(i, int(i >= 2)) for i in range(6)]
    assert sharding.make_mesh(-1, 3, gpus).devices.ravel().tolist() == gpus


def test_state_is_split_along_the_largest_divisible_dimension():
    mesh = sharding.make_mesh(2, 4)
    shapes = {
        "kernel": jax.ShapeDtypeStruct((6, 32, 128), jnp.float32),
        "odd": jax.ShapeDtypeStruct((8, 130), jnp.float32),
        "none": jax.ShapeDtypeStruct((9, 131), jnp.float32),
        "small": jax.ShapeDtypeStruct((16,), jnp.float32),
        "scalar": jax.ShapeDtypeStruct((), jnp.int32),
    }
    specs = jax.tree.map(lambda s: tuple(s.spec), sharding.state_sharding(mesh, shapes, 100))
    assert specs == {
        "kernel": (None, None, "fsdp"),
        "odd": ("fsdp", None),
        "none": (),
        "small": (),
        "scalar": (),
    }


@pytest.mark.parametrize("shape, min_size", [((9, 131), 100), ((8, 130), 2000)])
def test_an_axis_that_splits_nothing_is_refused(shape, min_size):
    shapes = {"kernel": jax.ShapeDtypeStruct(shape, jnp.float32)}
    with pytest.raises(ValueError, match="fsdp is 4; it must divide"):
        sharding.state_sharding(sharding.make_mesh(2, 4), shapes, min_size)
    one = sharding.state_sharding(sharding.make_mesh(8, 1), shapes, min_size)
    assert one["kernel"].is_fully_replicated


def test_global_batch_keeps_order_and_splits_over_all_devices():
    mesh = sharding.make_mesh(2, 4)
    images = np.arange(16 * 3, dtype=np.uint8).reshape(16, 3)
    batch = sharding.global_batch(mesh, {"image": images}, 16)["image"]
    np.testing.assert_array_equal(batch, images)
    assert {shard.data.shape for shard in batch.addressable_shards} == {(2, 3)}


def test_the_one_process_holds_all_rows():
    assert sharding.local_rows(sharding.make_mesh(2, 4), 16).tolist() == [*range(16)]


def test_host_arrays_on_every_device():
    mesh = sharding.make_mesh(2, 4)
    tree = {"a": np.arange(6.0).reshape(2, 3), "b": np.float32(3)}
    placed = sharding.on_every_device(mesh, tree)
    assert all(len(x.addressable_shards) == 8 for x in jax.tree.leaves(placed))
    jax.tree.map(np.testing.assert_array_equal, placed, tree)
