import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cdt import sharding


@pytest.mark.parametrize(
    ("given", "shape"),
    [((8, 1), (8, 1)), ((-1, 1), (8, 1)), ((-1, 4), (2, 4)), ((2, -1), (2, 4)), ((1, 8), (1, 8))],
)
def test_mesh_sizes(given, shape):
    mesh = sharding.make_mesh(*given)
    assert (mesh.shape["data"], mesh.shape["fsdp"]) == shape


@pytest.mark.parametrize("given", [(3, 1), (-1, 3), (-1, -1), (0, 8), (4, 4), (-1, 0), (-2, -4)])
def test_meshes_that_do_not_fit(given):
    with pytest.raises(ValueError, match="does not fit 8 device"):
        sharding.make_mesh(*given)


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
    with pytest.raises(ValueError, match="fsdp is 4, which splits nothing"):
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
