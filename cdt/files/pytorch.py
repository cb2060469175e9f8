"""Reads the state dict in a PyTorch file without PyTorch, and without running what is in it.

A PyTorch file holds a pickle, and a pickle is a program. Here it may name tensors and dictionaries
and nothing else. Both containers are read: the zip archive of PyTorch 1.6 and later, and the
sequence of pickles before it. Their layout is described by the source of torch.serialization.
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

# What a pickle calls the type of a storage -> its elements, always little-endian.
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

Items = list[tuple[Any, Any]]  # of a dictionary that is yet to be checked


class _Foreign(Exception):
    """The file is whole but holds something else than a state dict; the message ends a sentence."""


class _Storage(NamedTuple):
    kind: str  # a key of _DTYPES
    key: str
    numel: int


class _Tensor(NamedTuple):
    """A tensor whose bytes are elsewhere in the file; offset and strides count elements."""

    storage: _Storage
    offset: int
    size: tuple[int, ...]
    stride: tuple[int, ...]


def read_state_dict(path: epath.PathLike, inside: str | None = None) -> dict[str, np.ndarray]:
    """The tensors of a file that `torch.save(module.state_dict(), path)` wrote.

    Args:
      path: the file; it is read into memory whole.
      inside: in a file that holds several state dicts, as those of training programs do, the name
        of the one to read. A file that holds none of that name is a state dict itself.

    Returns:
      {name: array} in the file's order, with the dtype (bfloat16 as of ml_dtypes), shape and
      strides that were saved. Arrays are read-only, and tensors that shared memory share it here.

    Raises:
      ValueError: if the file is damaged, is no PyTorch file, or holds anything but a dictionary
        from names to dense tensors. Nothing that a pickle asks to be called is called, other than
        stand-ins for what rebuilds a tensor.
      OSError: if it cannot be read.
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
    except Exception as error:  # parsers given damaged bytes may raise anything
        raise ValueError(f"{path} is damaged or is not a PyTorch file ({error!r}).") from error


def _read_zip(data: bytes) -> tuple[Items, Callable[[_Storage], bytes]]:
    """The items of the dictionary, and a function that gives the bytes of a storage."""
    archive = zipfile.ZipFile(io.BytesIO(data))
    names = set(archive.namelist())
    pickles = [name for name in names if name.split("/")[1:] == ["data.pkl"]]
    if len(pickles) != 1:
        raise _Foreign("the zip archive has no data.pkl in its only folder")
    if any(member.compress_type != zipfile.ZIP_STORED for member in archive.infolist()):
        raise _Foreign("its zip archive is compressed, as PyTorch writes none")  # nor a zip bomb
    folder = pickles[0].removesuffix("data.pkl")
    byteorder = f"{folder}byteorder"  # written since PyTorch 2.1
    if byteorder in names and archive.read(byteorder) != b"little":
        raise _Foreign("it was written on a big-endian machine")
    state = _items(_Unpickler(io.BytesIO(archive.read(pickles[0]))))
    storages = {}

    def storage_bytes(storage: _Storage) -> bytes:
        if storage.key not in storages:  # a second reading would undo the sharing
            storages[storage.key] = archive.read(f"{folder}data/{storage.key}")
        return storages[storage.key]

    return state, storage_bytes


def _read_legacy(data: bytes) -> tuple[Items, Callable[[_Storage], bytes]]:
    """The same for five pickles (magic number, protocol, system, dictionary, keys of the storages)
    that are followed by each storage in the order of the keys: its length as int64, its elements.
    """
    stream = io.BytesIO(data)
    if _Unpickler(stream).load() != _LEGACY_MAGIC:
        raise _Foreign("it does not begin with the magic number of one")
    protocol, system = _Unpickler(stream).load(), _Unpickler(stream).load()
    if protocol != _LEGACY_PROTOCOL or not system["little_endian"]:
        raise _Foreign("it is of another protocol or was written on a big-endian machine")
    unpickler = _Unpickler(stream)
    state = _items(unpickler)
    storages = {}
    for key in _Unpickler(stream).load():
        storage = unpickler.storages[key]
        (numel,) = struct.unpack("<q", stream.read(8))
        if numel != storage.numel:
            raise _Foreign(
                f"storage {key} has {numel} elements where {storage.numel} were declared"
            )
        storages[key] = stream.read(numel * _DTYPES[storage.kind].itemsize)
    return state, lambda storage: storages[storage.key]


def _items(unpickler: pickle.Unpickler) -> Items:
    state = unpickler.load()
    if not isinstance(state, dict):
        raise _Foreign(f"it holds a {type(state).__name__}, not a dictionary")
    return list(dict.items(state))


def _checked_name(name: object, item: object) -> str:
    if not isinstance(name, str) or not isinstance(item, _Tensor):
        raise _Foreign(f"its entry {name!r} is a {type(item).__name__}, not a tensor with a name")
    return name


def _array(tensor: _Tensor, storage_bytes: Callable[[_Storage], bytes]) -> np.ndarray:
    dtype = _DTYPES[tensor.storage.kind]
    buffer = storage_bytes(tensor.storage)
    if len(buffer) != tensor.storage.numel * dtype.itemsize:
        raise _Foreign(f"storage {tensor.storage.key} is cut short")
    # The constructor refuses an offset and strides that leave the buffer.
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
        raise _Foreign(f"a tensor carries {metadata!r}")
    return _Tensor(storage, offset, size, stride)


def _rebuild_parameter(tensor: _Tensor, requires_grad: bool, hooks: object) -> _Tensor:
    return tensor


class _Ignored:
    """Stands for the command line that training programs save beside their weights."""

    def __setstate__(self, state: object) -> None:
        pass


# Types of storages are bare strings: a pickle can neither call nor alter a string.
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
            raise _Foreign(f"it asks for {module}.{name}, which no plain tensor needs")
        return _ALLOWED[module, name]

    def persistent_load(self, pid: Any) -> _Storage:
        tag, kind, key, _, numel, *view = pid
        # Before PyTorch 0.4 a storage could be a part of another.
        if tag != "storage" or kind not in _DTYPES or view not in ([], [None]):
            raise _Foreign(f"it refers to {pid!r}, which is not a storage")
        return self.storages.setdefault(key, _Storage(kind, key, numel))
