"""IDX files, the format of MNIST, Fashion-MNIST, KMNIST and similar data sets."""

import gzip
import struct
import zlib

import numpy as np
from etils import epath

from cdt.data.sources import Source, in_memory
from cdt.errors import UserError

_PREFIXES = {"train": "train", "test": "t10k"}
_UBYTE = 0x08


def idx(folder: epath.PathLike, split: str) -> Source:
    """Return a source of the grey images and labels in a folder of IDX files.

    Args:
      folder: local or `gs://`; has `train-images-idx3-ubyte` and `train-labels-idx1-ubyte`, and
        for the split 'test' the same two with `t10k`. Each may be gzipped, with the ending `.gz`.
      split: 'train' or 'test'.

    Raises:
      UserError: a file is missing, damaged or not IDX, or the numbers of images and labels differ.
    """
    if split not in _PREFIXES:
        raise UserError(f"split is {split!r}; IDX files have the splits 'train' and 'test'.")
    prefix, folder = _PREFIXES[split], epath.Path(folder)
    images = _read(folder, f"{prefix}-images-idx3-ubyte", 3)
    labels = _read(folder, f"{prefix}-labels-idx1-ubyte", 1)
    if len(images) != len(labels):
        raise UserError(
            f"{folder} has {len(images)} images but {len(labels)} labels for {split}; both files "
            "must be of the same data set."
        )
    return in_memory(
        f"{folder.name}/{split}", images[..., None], labels.astype(np.int32), int(labels.max()) + 1
    )


def _read(folder: epath.Path, name: str, ndim: int) -> np.ndarray:
    """Return the uint8 array in the file `name` or `name.gz`."""
    found = [path for path in (folder / name, folder / f"{name}.gz") if path.exists()]
    if not found:
        raise UserError(
            f"{folder} has no file {name} or {name}.gz; config.data.path must be the folder of the "
            "IDX files."
        )
    data = found[0].read_bytes()
    try:
        if data[:2] == b"\x1f\x8b":
            data = gzip.decompress(data)
        zeros, kind, dimensions = struct.unpack_from(">HBB", data)
        shape = struct.unpack_from(f">{dimensions}I", data, 4)
    except (struct.error, OSError, EOFError, zlib.error) as error:
        raise UserError(
            f"{found[0]} cannot be read as an IDX file ({error}); copy it again."
        ) from error
    if (zeros, kind, dimensions) != (0, _UBYTE, ndim) or 0 in shape:
        raise UserError(
            f"{found[0]} is not an IDX file of unsigned bytes in {ndim} dimensions; give a data "
            "set in the format of MNIST."
        )
    values = np.frombuffer(data, np.uint8, offset=4 + 4 * dimensions)
    if values.size != np.prod(shape):
        raise UserError(
            f"{found[0]} is damaged: its header promises {'x'.join(map(str, shape))} bytes, it has "
            f"{values.size}; copy it again."
        )
    return values.reshape(shape)
