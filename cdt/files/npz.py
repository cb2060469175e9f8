"""Reads npz and npy files, which may come from anywhere, after a look at what they claim."""

import io
import math
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO

import numpy as np

# Pictures of one colour shrink to a thousandth, but nobody's gigabytes do.
_MAX_RATIO = 100
_MAX_BYTES = 2**30


@contextmanager
def open_npz(file: IO[bytes]) -> Iterator[np.lib.npyio.NpzFile]:
    """As `np.load`, for arrays alone: nothing in the file is run.

    Raises:
      ValueError: no npz, an array of objects, one whose shape does not fit its bytes, or a file
        that would grow to more than a GiB and a hundred times of its size.
      OSError, EOFError, zipfile.BadZipFile: it cannot be read, or is damaged.
    """
    arrays = np.load(file, allow_pickle=False)
    if not isinstance(arrays, np.lib.npyio.NpzFile) or arrays.zip is None:
        raise ValueError("it holds one bare array")
    with arrays:
        members = arrays.zip.infolist()
        size, packed = (sum(getattr(m, k) for m in members) for k in ("file_size", "compress_size"))
        if size > _MAX_BYTES and size > _MAX_RATIO * packed:
            raise ValueError(f"{packed} bytes would grow to {size}")
        for member in members:
            _check_member(arrays.zip, member)
        yield arrays


def read_npy(content: bytes) -> np.ndarray:
    """The array of an npy file's bytes; nothing in it is run.

    Raises:
      ValueError: no npy, an array of objects, or one whose shape does not fit its bytes.
    """
    stream = io.BytesIO(content)
    _check_array(stream, len(content), "it")
    stream.seek(0)
    return np.load(stream, allow_pickle=False)


def _check_member(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> None:
    with archive.open(member) as stream:
        if stream.read(6) != b"\x93NUMPY":
            return  # NumPy gives the bytes of such a member
        stream.seek(0)
        _check_array(stream, member.file_size, member.filename)


def _check_array(stream: IO[bytes], length: int, name: str) -> None:
    """Raise ValueError unless the npy of `length` bytes holds what its header says."""
    version = np.lib.format.read_magic(stream)
    read = {(1, 0): np.lib.format.read_array_header_1_0}.get(
        version, np.lib.format.read_array_header_2_0
    )
    shape, _, dtype = read(stream)
    claimed = math.prod(shape) * dtype.itemsize
    held = length - stream.tell()
    if dtype.hasobject:
        raise ValueError(f"{name} holds objects")
    if min(shape, default=0) < 0 or claimed != held:
        raise ValueError(f"{name} says {dtype}{list(shape)} and holds {held} bytes")
