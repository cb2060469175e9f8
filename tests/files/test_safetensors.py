"""safetensors files: reading, writing, and refusal with one sentence."""

import hashlib
import json
import struct

import ml_dtypes
import numpy as np
import pytest

from cdt.files.safetensors import read_tensors, sha256, write_tensors


def encoded(**tensors):
    """The definition of the format: length of the header, header, data."""
    header, data = {}, b""
    names = {"float32": "F32", "float16": "F16", "bfloat16": "BF16", "int64": "I64"}
    for name, array in tensors.items():
        raw = array.tobytes()
        header[name] = {
            "dtype": names[array.dtype.name],
            "shape": array.shape,
            "data_offsets": [len(data), len(data) + len(raw)],
        }
        data += raw
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


TENSORS = {
    "a.weight": np.arange(6, dtype=np.float32).reshape(2, 3),
    "b": np.array([0.5, -3], np.float16),
    "c": np.array([[1.5], [-0.25]], ml_dtypes.bfloat16),
}


def test_reads_every_float_type(tmp_path):
    path = tmp_path / "a.safetensors"
    path.write_bytes(encoded(**TENSORS))
    found = read_tensors(path)
    assert found.keys() == TENSORS.keys()
    for name, array in TENSORS.items():
        assert found[name].dtype == array.dtype
        np.testing.assert_array_equal(found[name], array)
    assert sha256(path) == hashlib.sha256(path.read_bytes()).hexdigest()


def test_writes_what_the_format_says(tmp_path):
    path = tmp_path / "a.safetensors"
    tensors = {"a": TENSORS["a.weight"].T, "b": TENSORS["b"]}
    write_tensors(path, tensors, {"format": "pt"})
    content = path.read_bytes()
    (length,) = struct.unpack("<Q", content[:8])
    header, data = json.loads(content[8 : 8 + length]), content[8 + length :]
    assert header.pop("__metadata__") == {"format": "pt"}
    assert header.keys() == tensors.keys()
    for name, array in tensors.items():
        assert header[name]["shape"] == list(array.shape)
        start, end = header[name]["data_offsets"]
        assert data[start:end] == array.tobytes()
    assert sum(array.nbytes for array in tensors.values()) == len(data)
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.safetensors"]


def test_damaged_and_other_files(tmp_path):
    path, whole = tmp_path / "a.safetensors", encoded(**TENSORS)
    for content, words in [
        (b"", "damaged"),
        (whole[:-1], "damaged"),
        (whole[:20], "damaged"),
        (whole + b"x", "damaged"),
        (b"PK\x03\x04" * 20, "damaged"),
        (encoded(steps=np.arange(3)), "steps in .* is I64"),
    ]:
        path.write_bytes(content)
        with pytest.raises(ValueError, match=words) as caught:
            read_tensors(path)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("read", [read_tensors, sha256])
def test_files_that_cannot_be_read(tmp_path, read):
    for path in (tmp_path / "nowhere", tmp_path):
        with pytest.raises(ValueError, match="cannot be read"):
            read(path)
