"""Safe reading of the state dict in a PyTorch file, without PyTorch.

A PyTorch file contains a pickle, and a pickle can run any code. This reader accepts only tensors
and dictionaries. It reads both formats: the zip archive of PyTorch 1.6 and later, and the sequence
of pickles of earlier versions. The source of torch.serialization describes them.
"""

import io
import pickle
import struct
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np
from etils import epath

# Name of a storage type in the pickle -> dtype of its elements, always little-endian.
_DTYPES = {
    "BoolStorage": np.dtype("?"),
    "ByteStorage": np.dtype("u1"),
    "CharStorage": np.dtype("i1"),
    "ShortStorage": np.dtype("<i2"),
    "IntStorage": np.dtype("<i4"),
    "LongStorage": np.dtype("<i8"),
    "HalfStorage": np.dtype("<f2"),
    "BFloat16Storage": np.dtype(ml_dtypes.bfloat16),
    "FloatStorage": np.dtype("<f4"),
    "DoubleStorage": np.dtype("<f8"),
    "ComplexFloatStorage": np.dtype("<c8"),
    "ComplexDoubleStorage": np.dtype("<c16"),
}
_LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
_LEGACY_PROTOCOL = 1001

Items = list[tuple[Any, Any]]  # entries of a dictionary, not yet checked


class _Foreign(Exception):
    """The file is intact but is not a state dict; the message continues a sentence."""


class _Storage(NamedTuple):
    kind: str  # a key of _DTYPES
    key: str
    numel: int


class _Tensor(NamedTuple):
    """A tensor without its bytes; offset and strides are in elements."""

    storage: _Storage
    offset: int
    size: tuple[int, ...]
    stride: tuple[int, ...]


def read_state_dict(path: epath.PathLike, inside: str | None = None) -> dict[str, np.ndarray]:
    """Return the tensors of a file that `torch.save(module.state_dict(), path)` wrote.

    Args:
      path: the file; the whole file is read into memory.
      inside: name of the state dict to read from a file that has several, such as one that a
        training script saved. If the file has no entry of this name, the file itself is read as a
        state dict.

    Returns:
      {name: array} in the order of the file, with the saved dtype (bfloat16 of ml_dtypes), shape
      and strides. Arrays are read-only. Tensors that share memory share it here too.

    Raises:
      ValueError: the file is damaged, is not a PyTorch file, or has other content than a dictionary
        of names and dense tensors. The pickle can call nothing but the functions in this module.
      OSError: the file cannot be read.
    """
    data = epath.Path(path).read_bytes()
    try:
        state, storage_bytes = _read_zip(data) if data[:2] == b"PK" else _read_legacy(data)
        inner = None if inside is None else dict(state).get(inside)
        if isinstance(inner, dict):
            state = list(dict.items(inner))
        return {_checked_name(name, item): _array(item, storage_bytes) for name, item in state}
    except _Foreign as error:
        raise ValueError(f"{path} is not a PyTorch state dict: {error}.") from error
    except Exception as error:  # parsers raise errors of any type on damaged bytes
        raise ValueError(f"{path} is damaged or is not a PyTorch file ({error!r}).") from error


def _read_zip(data: bytes) -> tuple[Items, Callable[[_Storage], bytes]]:
    """Return the entries of the dictionary, and a function from a storage to its bytes."""
    archive = zipfile.ZipFile(io.BytesIO(data))
    names = set(archive.namelist())
    pickles = [name for name in names if name.split("/")[1:] == ["data.pkl"]]
    if len(pickles) != 1:
        raise _Foreign("the zip archive has no data.pkl in its only folder")
    if any(member.compress_type != zipfile.ZIP_STORED for member in archive.infolist()):
        # PyTorch never compresses; this also excludes zip bombs.
        raise _Foreign("its zip archive is compressed; PyTorch does not write such archives")
    folder = pickles[0].removesuffix("data.pkl")
    byteorder = f"{folder}byteorder"  # written since PyTorch 2.1
    if byteorder in names and archive.read(byteorder) != b"little":
        raise _Foreign("it was written on a big-endian machine")
    state = _items(_Unpickler(io.BytesIO(archive.read(pickles[0]))))
    storages = {}

    def storage_bytes(storage: _Storage) -> bytes:
        if storage.key not in storages:  # reading it twice would end the sharing of memory
            storages[storage.key] = archive.read(f"{folder}data/{storage.key}")
        return storages[storage.key]

    return state, storage_bytes


def _read_legacy(data: bytes) -> tuple[Items, Callable[[_Storage], bytes]]:
    """Return the same as `_read_zip` for the format before PyTorch 1.6.

    It has five pickles (magic number, protocol, system, dictionary, keys of the storages), then
    each storage in the order of the keys: its length as int64, its elements.
    """
    stream = io.BytesIO(data)
    if _Unpickler(stream).load() != _LEGACY_MAGIC:
        raise _Foreign("it does not begin with PyTorch's magic number")
    protocol, system = _Unpickler(stream).load(), _Unpickler(stream).load()
    if protocol != _LEGACY_PROTOCOL or not system["little_endian"]:
        raise _Foreign("it has another protocol or was written on a big-endian machine")
    unpickler = _Unpickler(stream)
    state = _items(unpickler)
    storages = {}
    for key in _Unpickler(stream).load():
        storage = unpickler.storages[key]
        (numel,) = struct.unpack("<q", stream.read(8))
        if numel != storage.numel:
            raise _Foreign(f"storage {key} has {numel} elements, but {storage.numel} were declared")
        storages[key] = stream.read(numel * _DTYPES[storage.kind].itemsize)
    return state, lambda storage: storages[storage.key]


def _items(unpickler: pickle.Unpickler) -> Items:
    state = unpickler.load()
    if not isinstance(state, dict):
        raise _Foreign(f"it contains a {type(state).__name__}, not a dictionary")
    return list(dict.items(state))


def _checked_name(name: object, item: object) -> str:
    if not isinstance(name, str) or not isinstance(item, _Tensor):
        raise _Foreign(f"its entry {name!r} is a {type(item).__name__}, not a tensor with a name")
    return name


def _array(tensor: _Tensor, storage_bytes: Callable[[_Storage], bytes]) -> np.ndarray:
    dtype = _DTYPES[tensor.storage.kind]
    buffer = storage_bytes(tensor.storage)
    if len(buffer) != tensor.storage.numel * dtype.itemsize:
        raise _Foreign(f"storage {tensor.storage.key} is truncated")
    # The constructor raises if the offset and strides reach outside the buffer.
    return np.ndarray(
        tensor.size,
        dtype,
        buffer,
        tensor.offset * dtype.itemsize,
        [step * dtype.itemsize for step in tensor.stride],
    )


def _rebuild_tensor_v2(
    storage: _Storage,
    offset: int,
    size: tuple[int, ...],
    stride: tuple[int, ...],
    requires_grad: bool,
    hooks: object,
    metadata: object = None,
) -> _Tensor:
    if metadata:  # lazy conjugation and the like
        raise _Foreign(f"a tensor has the metadata {metadata!r}")
    return _Tensor(storage, offset, size, stride)


def _rebuild_parameter(tensor: _Tensor, requires_grad: bool, hooks: object) -> _Tensor:
    return tensor


class _Ignored:
    """Replaces the command-line arguments that training scripts save with their weights."""

    def __setstate__(self, state: object) -> None:
        pass


# Storage types are plain strings: a pickle can neither call nor change a string.
_ALLOWED = {
    ("argparse", "Namespace"): _Ignored,
    ("collections", "OrderedDict"): OrderedDict,
    ("torch._utils", "_rebuild_tensor_v2"): _rebuild_tensor_v2,
    ("torch._utils", "_rebuild_parameter"): _rebuild_parameter,
} | {("torch", name): name for name in _DTYPES}


class _Unpickler(pickle.Unpickler):
    def __init__(self, stream: io.BytesIO):
        super().__init__(stream, encoding="utf-8")
        self.storages: dict[str, _Storage] = {}

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _ALLOWED:
            raise _Foreign(f"it uses {module}.{name}, which plain tensors do not need")
        return _ALLOWED[module, name]

    def persistent_load(self, pid: Any) -> _Storage:
        tag, kind, key, _, numel, *view = pid
        # Before PyTorch 0.4 a storage could be a view of another.
        if tag != "storage" or kind not in _DTYPES or view not in ([], [None]):
            raise _Foreign(f"it refers to {pid!r}, which is not a storage")
        return self.storages.setdefault(key, _Storage(kind, key, numel))
