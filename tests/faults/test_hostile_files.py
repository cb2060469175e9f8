"""Hostile files, with wrong sizes or code in them, are refused with one sentence."""

import io
import pickle
import struct
import zipfile
import zlib

import numpy as np
import pytest
from PIL import Image

from cdt.data import pictures
from cdt.data.sources import npz
from cdt.errors import UserError
from cdt.evals.images import read_images
from cdt.files.pytorch import read_state_dict
from cdt.files.safetensors import read_tensors


class Ran:
    """Writes a file when it is unpickled."""

    def __init__(self, path):
        self._path = path

    def __reduce__(self):
        return (open, (str(self._path), "w"))


def npz_with(path, header, content, compression=zipfile.ZIP_STORED):
    """An npz file whose member train_images has the given header and bytes."""
    stream = io.BytesIO()
    np.lib.format.write_array_header_1_0(stream, header)
    with zipfile.ZipFile(path, "w", compression) as archive:
        archive.writestr("train_images.npy", stream.getvalue() + content)
    return path


def uint8(shape):
    return {"descr": "|u1", "fortran_order": False, "shape": shape}


@pytest.mark.parametrize(
    "shape", [(10**9, 64, 64, 3), (2**62, 2**62), (4, 8, 8), (-1, 8, 8)], ids=str
)
def test_shapes_that_do_not_fit_their_bytes(tmp_path, shape):
    path = npz_with(tmp_path / "x.npz", uint8(shape), bytes(64))
    with pytest.raises(UserError, match="cannot be read as an .npz file"):
        npz(path, "train")


@pytest.mark.long  # reads gigabytes of zeros
def test_a_bomb(tmp_path):
    """Two gigabytes of zeros in two megabytes."""
    path = tmp_path / "x.npz"
    stream = io.BytesIO()
    np.lib.format.write_array_header_1_0(stream, uint8((2**15, 256, 256)))
    with (
        zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive,
        archive.open("train_images.npy", "w", force_zip64=True) as member,
    ):
        member.write(stream.getvalue())
        for _ in range(128):
            member.write(bytes(2**24))
    assert path.stat().st_size < 2**25
    with pytest.raises(UserError, match=r"compressed bytes would expand to 2147483\d+"):
        npz(path, "train")


def test_arrays_of_objects_are_not_unpickled(tmp_path):
    ran = tmp_path / "ran"
    np.savez(tmp_path / "x.npz", train_images=np.array([Ran(ran)], dtype=object))
    with pytest.raises(UserError, match="cannot be read as an .npz file"):
        npz(tmp_path / "x.npz", "train")
    with pytest.raises(ValueError, match="x.npz"):
        read_images(tmp_path / "x.npz")
    assert not ran.exists()


def test_names_that_climb_out_of_an_archive_write_nothing(tmp_path):
    inside = tmp_path / "inside"
    inside.mkdir()
    path = inside / "x.npz"
    images = np.zeros((4, 8, 8), np.uint8)
    np.savez(path, train_images=images)
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("../../evil.npy", b"x")
        archive.writestr("/evil.npy", b"x")
    assert npz(path, "train").size == 4  # archives are never unpacked to the disk
    assert [p.name for p in tmp_path.rglob("*")] == ["inside", "x.npz"]


@pytest.mark.parametrize("legacy", [False, True])
def test_weights_that_ask_to_be_run(tmp_path, legacy):
    ran, path = tmp_path / "ran", tmp_path / "x.pt"
    program = pickle.dumps({"weight": Ran(ran)}, protocol=2)
    if legacy:
        path.write_bytes(program)
    else:
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("x/data.pkl", program)
    with pytest.raises(ValueError, match="x.pt"):
        read_state_dict(path)
    assert not ran.exists()


def test_compressed_weights(tmp_path):
    path = tmp_path / "x.pt"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("x/data.pkl", bytes(10**8))
    assert path.stat().st_size < 10**6
    with pytest.raises(ValueError, match="its zip archive is compressed"):
        read_state_dict(path)


@pytest.mark.parametrize(
    "header, data",
    [
        (b'{"a":{"dtype":"F32","shape":[1000000000000],"data_offsets":[0,4]}}', bytes(4)),
        (b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,400]}}', bytes(4)),
        (b'{"a":{"dtype":"F32","shape":[-1],"data_offsets":[0,4]}}', bytes(4)),
        (b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},'
         b'"b":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}', bytes(4)),
        (None, bytes(4)),
    ],
    ids=["absurd shape", "beyond the file", "negative", "overlapping", "header beyond the file"],
)  # fmt: skip
def test_safetensors_that_lie(tmp_path, header, data):
    path = tmp_path / "x.safetensors"
    length = 2**40 if header is None else len(header)
    path.write_bytes(struct.pack("<Q", length) + (header or b"") + data)
    with pytest.raises(ValueError, match="x.safetensors is damaged"):
        read_tensors(path)


def huge_png(width, height):
    """A PNG of a few bytes whose header claims the given size."""

    def chunk(kind, body):
        checksum = struct.pack(">I", zlib.crc32(kind + body))
        return struct.pack(">I", len(body)) + kind + body + checksum

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    body = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


@pytest.mark.parametrize("side", [15_000, 25_000, 2**31 - 1])
def test_pictures_of_too_many_pixels_are_not_decoded(tmp_path, side, monkeypatch):
    monkeypatch.setattr(Image.Image, "load", lambda self: pytest.fail("it was decoded"))
    data = huge_png(side, side)
    with pytest.raises(ValueError, match="has more than 200000000 pixels"):
        pictures.decode(data, 64, 3)
    (tmp_path / "x.png").write_bytes(data)
    with pytest.raises(ValueError, match="x.png has more than 200000000 pixels"):
        read_images(tmp_path)
