"""IDX files, the form of MNIST and of the data sets made after it (Fashion-MNIST, KMNIST, ...)."""

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
    """Grey images and their labels from a folder of IDX files, gzipped or not.

    Args:
      folder: local or `gs://`; holds `train-images-idx3-ubyte`, `train-labels-idx1-ubyte` and the
        same two with `t10k` for the split 'test', each as it is or with `.gz` at the end.
      split: 'train' or 'test'.

    Raises:
      UserError: a missing, damaged or other file, or another number of labels than images.
    """
    if split not in _PREFIXES:
        raise UserError(f"IDX files have no split {split!r}: choose 'train' or 'test'")
    prefix, folder = _PREFIXES[split], epath.Path(folder)
    images = _read(folder, f"{prefix}-images-idx3-ubyte", 3)
    labels = _read(folder, f"{prefix}-labels-idx1-ubyte", 1)
    if len(images) != len(labels):
        raise UserError(
            f"{folder} holds {len(images)} images but {len(labels)} labels of {split}: give both "
            "files of one data set"
        )
    return in_memory(
        f"{folder.name}/{split}", images[..., None], labels.astype(np.int32), int(labels.max()) + 1
    )


def _read(folder: epath.Path, name: str, ndim: int) -> np.ndarray:
    """uint8 array of the file `name` or `name.gz`."""
    found = [path for path in (folder / name, folder / f"{name}.gz") if path.exists()]
    if not found:
        raise UserError(
            f"there is no file {name} or {name}.gz in {folder}: give the folder of the IDX files "
            "as config.data.path"
        )
    data = found[0].read_bytes()
    try:
        if data[:2] == b"\x1f\x8b":
            data = gzip.decompress(data)
        zeros, kind, dimensions = struct.unpack_from(">HBB", data)
        shape = struct.unpack_from(f">{dimensions}I", data, 4)
    except (struct.error, OSError, EOFError, zlib.error) as error:
        raise UserError(
            f"{found[0]} cannot be read as an IDX file ({error}): copy it again"
        ) from error
    if (zeros, kind, dimensions) != (0, _UBYTE, ndim) or 0 in shape:
        raise UserError(
            f"{found[0]} is no IDX file of unsigned bytes in {ndim} dimensions: give a data set in "
            "MNIST's form"
        )
    values = np.frombuffer(data, np.uint8, offset=4 + 4 * dimensions)
    if values.size != np.prod(shape):
        raise UserError(
            f"{found[0]} says it holds {'x'.join(map(str, shape))} bytes but holds {values.size}: "
            "it is damaged, copy it again"
        )
    return values.reshape(shape)
