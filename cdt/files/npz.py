"""Safe reading of npz and npy files: headers and sizes are checked before arrays are loaded."""

import io
import math
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO

import numpy as np

# Limits against zip bombs. Small files may have any ratio: images of one colour are compressed to a
# thousandth.
_MAX_RATIO = 100
_MAX_BYTES = 2**30


@contextmanager
def open_npz(file: IO[bytes]) -> Iterator[np.lib.npyio.NpzFile]:
    """Open an npz file like `np.load`, without pickled objects.

    Raises:
      ValueError: the file is not npz; it has an array of objects, or one whose shape does not match
        its bytes; or it is larger than 1 GiB uncompressed and 100 times its compressed size.
      OSError, EOFError, zipfile.BadZipFile: the file cannot be read or is damaged.
    """
    arrays = np.load(file, allow_pickle=False)
    if not isinstance(arrays, np.lib.npyio.NpzFile) or arrays.zip is None:
        raise ValueError("it is a single array, not an archive")
    with arrays:
        members = arrays.zip.infolist()
        size, packed = (sum(getattr(m, k) for m in members) for k in ("file_size", "compress_size"))
        if size > _MAX_BYTES and size > _MAX_RATIO * packed:
            raise ValueError(f"{packed} compressed bytes would expand to {size}")
        for member in members:
            _check_member(arrays.zip, member)
        yield arrays


def read_npy(content: bytes) -> np.ndarray:
    """Return the array in the bytes of an npy file, without pickled objects.

    Raises:
      ValueError: the bytes are not npy, or an array of objects, or the shape does not match them.
    """
    stream = io.BytesIO(content)
    _check_array(stream, len(content), "it")
    stream.seek(0)
    return np.load(stream, allow_pickle=False)


def _check_member(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> None:
    with archive.open(member) as stream:
        if stream.read(6) != b"\x93NUMPY":
            return  # not an npy; NumPy returns its bytes
        stream.seek(0)
        _check_array(stream, member.file_size, member.filename)


def _check_array(stream: IO[bytes], length: int, name: str) -> None:
    """Raise ValueError unless the npy of `length` bytes matches its header."""
    version = np.lib.format.read_magic(stream)
    read = {(1, 0): np.lib.format.read_array_header_1_0}.get(
        version, np.lib.format.read_array_header_2_0
    )
    shape, _, dtype = read(stream)
    claimed = math.prod(shape) * dtype.itemsize
    held = length - stream.tell()
    if dtype.hasobject:
        raise ValueError(f"{name} has dtype object")
    if min(shape, default=0) < 0 or claimed != held:
        raise ValueError(f"the header of {name} is {dtype}{list(shape)}, but it has {held} bytes")
