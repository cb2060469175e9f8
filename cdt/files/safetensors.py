"""Reading and writing of safetensors files."""

import hashlib
from collections.abc import Mapping

import ml_dtypes
import numpy as np
from etils import epath
from safetensors import SafetensorError, deserialize
from safetensors.numpy import save

from cdt.files import atomic

# Little-endian, as the format requires. The package's own NumPy reader does not support bfloat16.
_DTYPES = {
    "F64": np.dtype("<f8"),
    "F32": np.dtype("<f4"),
    "F16": np.dtype("<f2"),
    "BF16": np.dtype(ml_dtypes.bfloat16),
}


def read_tensors(path: epath.PathLike) -> dict[str, np.ndarray]:
    """Return the tensors of a weights file, which is read into memory as a whole.

    Args:
      path: local or `gs://`.

    Returns:
      {name: array}, float64, float32, float16 or bfloat16 (of ml_dtypes) as in the file.

    Raises:
      ValueError: the file cannot be read, is damaged, or has tensors of other dtypes. The message
        is one sentence for the user.
    """
    try:
        tensors = deserialize(epath.Path(path).read_bytes())
    except OSError as error:
        raise ValueError(
            f"{path} cannot be read ({error.strerror or error}); give the path of a .safetensors "
            "file."
        ) from error
    except SafetensorError as error:
        raise ValueError(
            f"{path} is damaged or is not a safetensors file ({error}); download it again."
        ) from error
    arrays = {}
    for name, tensor in tensors:
        if tensor["dtype"] not in _DTYPES:
            raise ValueError(
                f"{name} in {path} is {tensor['dtype']}; it must be one of {', '.join(_DTYPES)}."
            )
        values = np.frombuffer(tensor["data"], _DTYPES[tensor["dtype"]])
        arrays[name] = values.reshape(tensor["shape"])
    return arrays


def write_tensors(
    path: epath.PathLike, tensors: Mapping[str, np.ndarray], metadata: Mapping[str, str]
) -> None:
    """Write a safetensors file atomically; it is built in memory.

    Args:
      path: local or `gs://`.
      tensors: {name: array of a dtype that NumPy has}.
      metadata: strings for the header; diffusers requires {"format": "pt"}.

    Raises:
      OSError: the folder does not exist or cannot be written to.
    """
    contiguous = {name: np.ascontiguousarray(array) for name, array in tensors.items()}
    atomic.write(path, save(contiguous, dict(metadata)))


def sha256(path: epath.PathLike) -> str:
    """Return the SHA-256 of a file in hex.

    Raises:
      ValueError: the file cannot be read. The message is one sentence for the user.
    """
    try:
        with epath.Path(path).open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    except OSError as error:
        raise ValueError(f"{path} cannot be read ({error.strerror or error}).") from error
