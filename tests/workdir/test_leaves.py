"""Paths, types and checksums of leaves."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from cdt.workdir import leaves

DTYPES = ("float32", "bfloat16", "float16", "int32", "uint32", "uint8", "int8", "bool")


def checksum(array) -> int:
    return int(leaves.leaf_checksums({"x": jnp.asarray(array)})["x"])


def random_array(shape, dtype, seed=0):
    bits = np.random.default_rng(seed).integers(0, 256, size=(*shape, np.dtype(dtype).itemsize))
    if dtype == "bool":
        bits &= 1
    return bits.astype(np.uint8).view(jnp.dtype(dtype)).reshape(shape)


def reference(array) -> int:
    """The sum with Python integers, one element after the other."""
    size = 32 if array.dtype.itemsize == 4 else 8 * array.dtype.itemsize
    total = 0
    for position, bits in enumerate(array.reshape(-1).view(f"uint{size}").tolist()):
        key = (position ^ (position >> 16)) * 0x85EBCA6B % 2**32
        key = (key ^ (key >> 13)) * 0xC2B2AE35 % 2**32
        total += bits * ((key ^ (key >> 16)) | 1)
    return total % 2**32


@pytest.mark.parametrize("dtype", DTYPES)
def test_checksum_is_the_sum_it_claims_to_be(dtype):
    array = random_array((5, 3, 7), dtype)
    assert checksum(array) == reference(array)


@pytest.mark.parametrize("dtype", DTYPES)
def test_checksum_sees_every_single_flipped_bit(dtype):
    array = random_array((3, 5), dtype)
    flipped = []
    for position in range(array.nbytes):
        for bit in range(1 if dtype == "bool" else 8):
            copy = array.copy()
            copy.reshape(-1).view(np.uint8)[position] ^= 1 << bit
            flipped.append(copy)
    sums = jax.vmap(lambda x: leaves.leaf_checksums({"x": x})["x"])(jnp.stack(flipped))
    assert checksum(array) not in np.asarray(sums)


@settings(max_examples=60, deadline=None, derandomize=True, database=None)
@given(
    position=st.integers(0, 4 * 64 * 1024 - 1), bit=st.integers(0, 7), seed=st.integers(0, 2**32)
)
def test_checksum_sees_a_flipped_bit_in_a_large_array(position, bit, seed):
    array = random_array((64, 1024), "float32", seed)
    before = checksum(array)
    array.reshape(-1).view(np.uint8)[position] ^= 1 << bit
    assert checksum(array) != before


def test_checksum_sees_elements_that_change_places():
    array = random_array((16, 4), "float32")
    assert checksum(array) != checksum(array[::-1])
    assert checksum(array) != checksum(array.T.copy().reshape(16, 4))


@pytest.mark.parametrize("spec", [(), ("a",), ("b",), ("a", "b"), (None, ("a", "b"))])
def test_checksum_does_not_depend_on_the_mesh(spec):
    array = random_array((8, 16), "float32")
    mesh = jax.make_mesh((4, 2), ("a", "b"), axis_types=(AxisType.Auto,) * 2)
    placed = jax.device_put(array, NamedSharding(mesh, PartitionSpec(*spec)))
    assert checksum(placed) == checksum(array)


def test_paths_go_through_dicts_sequences_and_named_tuples():
    tree = {"a": {"b": 1}, "c": (2, [3]), "o": optax.ScaleByScheduleState(count=4), "n": None}
    assert leaves.named_leaves(tree) == {"a/b": 1, "c/0": 2, "c/1/0": 3, "o/count": 4}


def test_two_leaves_of_one_path_are_refused():
    with pytest.raises(ValueError, match="same path"):
        leaves.named_leaves({"a/b": 1, "a": {"b": 2}})


def test_nested_and_back_keeps_containers_none_and_empty_arrays():
    tree = {
        "opt": optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(1e-3)).init(jnp.ones(3)),
        "masked": optax.MaskedNode(),
        "none": None,
        "empty": jnp.zeros((0, 3), jnp.int32),
        "0.999": [jnp.ones(2), ()],
    }
    back = leaves.from_nested(leaves.to_nested(tree), leaves.placed(jax.eval_shape(lambda: tree)))
    assert jax.tree.structure(back) == jax.tree.structure(tree)
    assert leaves.leaf_types(back) == leaves.leaf_types(tree)
    assert jax.tree.all(jax.tree.map(lambda a, b: bool(jnp.array_equal(a, b)), back, tree))
