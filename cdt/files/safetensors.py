"""Reads and writes files of the safetensors format."""

import hashlib
from collections.abc import Mapping

import ml_dtypes
import numpy as np
from etils import epath
from safetensors import SafetensorError, deserialize
from safetensors.numpy import save

from cdt.files import atomic

# Little-endian, as the format prescribes. The package's own reader for NumPy lacks bfloat16.
_DTYPES = {
    "F64": np.dtype("<f8"),
    "F32": np.dtype("<f4"),
    "F16": np.dtype("<f2"),
    "BF16": np.dtype(ml_dtypes.bfloat16),
}


def read_tensors(path: epath.PathLike) -> dict[str, np.ndarray]:
    """The tensors of a file of weights, local or `gs://`; it is read into memory whole.

    Returns:
      {name: array}, float64, float32, float16 or bfloat16 (of ml_dtypes) as in the file.

    Raises:
      ValueError: a sentence, if the file cannot be read, is truncated or otherwise damaged, or
        holds anything but floating-point numbers.
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
            f"{path} is damaged or is no safetensors file ({error}); fetch it again."
        ) from error
    arrays = {}
    for name, tensor in tensors:
        if tensor["dtype"] not in _DTYPES:
            raise ValueError(
                f"{path} holds {name} as {tensor['dtype']}; weights are {', '.join(_DTYPES)}."
            )
        values = np.frombuffer(tensor["data"], _DTYPES[tensor["dtype"]])
        arrays[name] = values.reshape(tensor["shape"])
    return arrays


def write_tensors(
    path: epath.PathLike, tensors: Mapping[str, np.ndarray], metadata: Mapping[str, str]
) -> None:
    """Write a file, local or `gs://`, that is seen whole or not at all; it is made in memory.

    Args:
      tensors: {name: array of a type that NumPy has}.
      metadata: texts for its header; diffusers asks for {"format": "pt"}.

    Raises:
      OSError: the folder does not exist or cannot be written to.
    """
    contiguous = {name: np.ascontiguousarray(array) for name, array in tensors.items()}
    atomic.write(path, save(contiguous, dict(metadata)))


def sha256(path: epath.PathLike) -> str:
    """The SHA-256 of a file, in hex.

    Raises:
      ValueError: a sentence, if it cannot be read.
    """
    try:
        with epath.Path(path).open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    except OSError as error:
        raise ValueError(f"{path} cannot be read ({error.strerror or error}).") from error
