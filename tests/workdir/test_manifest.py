"""Manifests: intact ones are accepted; damage and mismatches are detected and named."""

import copy
import json

import jax
import jax.numpy as jnp
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cdt.workdir import manifest
from cdt.workdir.leaves import leaf_checksums

ITEMS = {"params": {"a": jnp.arange(2.0), "b": jnp.int32(7)}, "opt": {}}
META = {"config": {"lr": 2e-4, "sizes": (1, 2), 10: None, 9: "é"}}


def test_it_holds_versions_types_and_a_checksum_per_leaf():
    made = manifest.make_manifest(ITEMS, META)
    manifest.check_manifest(made)
    manifest.check_items(made, ITEMS)
    assert made["schema"] == manifest.CHECKPOINT_SCHEMA
    assert made["versions"]["jax"] == jax.__version__
    assert made["types"] == {"params": {"a": "float32[2]", "b": "int32[]"}, "opt": {}}
    expected = {path: int(x) for path, x in leaf_checksums(ITEMS["params"]).items()}
    assert made["checksums"] == {"params": expected, "opt": {}}
    assert made["meta"] == {"config": {"lr": 2e-4, "sizes": [1, 2], "10": None, "9": "é"}}


def test_it_survives_being_written_and_read():
    manifest.check_manifest(json.loads(json.dumps(manifest.make_manifest(ITEMS, META))))


def test_every_flipped_bit_of_the_text_is_seen():
    made = manifest.make_manifest(ITEMS, {"note": "x"})
    text = json.dumps(made).encode()
    accepted = 0
    for position in range(len(text)):
        for bit in range(8):
            flipped = bytearray(text)
            flipped[position] ^= 1 << bit
            try:
                read = json.loads(flipped)
                manifest.check_manifest(read)
            except (ValueError, manifest.Damaged):
                continue
            accepted += 1
            assert read == made  # such as a space that became a tab
    assert accepted < len(text)


@pytest.mark.parametrize("other", [None, [], "text", {}, {"crc32": 0}, {"schema": 1}])
def test_other_json_is_damage(other):
    with pytest.raises(manifest.Damaged):
        manifest.check_manifest(other)


def test_another_array_is_damage_and_is_named():
    made = manifest.make_manifest(ITEMS, {})
    items = copy.copy(ITEMS) | {"params": ITEMS["params"] | {"b": jnp.int32(8)}}
    with pytest.raises(manifest.Damaged, match="params/b does not match its checksum"):
        manifest.check_items(made, items)


def test_the_first_mismatch_is_named():
    made = manifest.make_manifest(ITEMS, {})
    params = jax.eval_shape(lambda: ITEMS["params"])
    assert manifest.first_mismatch(made, {"params": params}) is None

    def of(shape, dtype):
        return jax.ShapeDtypeStruct(shape, dtype)

    for wanted, words in [
        ({"params": params | {"a": of((3,), "float32")}}, "params/a is float32[2] in the checkp"),
        ({"params": params | {"a": of((2,), "bfloat16")}}, "and bfloat16[2] in this run"),
        ({"params": {"a": params["a"]}}, "params/b is int32[] in the checkpoint and missing"),
        ({"params": params | {"c": of((), "bool")}}, "params/c is missing in the checkpoint"),
        ({"ema": {}}, "no item 'ema', only params, opt"),
    ]:
        assert words in manifest.first_mismatch(made, wanted)


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@given(meta=st.dictionaries(st.text(), _JSON, max_size=4), data=st.data())
def test_any_meta_comes_back_and_any_other_is_damage(meta, data):
    made = manifest.make_manifest({}, meta)
    read = json.loads(json.dumps(made))
    manifest.check_manifest(read)
    assert read["meta"] == meta
    read["meta"] = data.draw(st.dictionaries(st.text(), _JSON, max_size=4))
    if json.dumps(read["meta"], sort_keys=True) != json.dumps(meta, sort_keys=True):
        with pytest.raises(manifest.Damaged):
            manifest.check_manifest(read)
