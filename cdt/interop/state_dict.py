"""Conversion of the arrays in a PyTorch state dict to parameters of Flax modules.

The messages of all errors continue a sentence that names the file.
"""

from collections.abc import Mapping

import numpy as np

# Last part of the path of a leaf in Flax -> last part of its name in PyTorch.
LEAVES = {"kernel": "weight", "scale": "weight", "table": "weight", "bias": "bias"}


class StateDict:
    """The arrays of a state dict {name: array of any float dtype}; each can be taken once."""

    def __init__(self, state: Mapping[str, np.ndarray]):
        self._left = dict(state)

    def take(self, name: str, shape: tuple[int, ...]) -> np.ndarray:
        """Return an array as f32.

        Raises:
          ValueError: there is no array of this name, it was taken before, or it has another shape.
        """
        if name not in self._left:
            raise ValueError(f"it has no {name}")
        array = self._left.pop(name)
        if array.shape != tuple(shape):
            raise ValueError(f"its {name} is {list(array.shape)}, not {list(shape)}")
        return np.asarray(array, np.float32)

    def check_empty(self) -> None:
        """Raise ValueError if an array was not taken."""
        if self._left:
            raise ValueError(f"its {next(iter(self._left))} is not a layer of this network")


def torch_shape(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Return the shape in PyTorch, [out, in, ...], of a kernel [..., in, out]; unchanged if 1-D."""
    return (*shape[:-3:-1], *shape[:-2])


def to_flax(array: np.ndarray) -> np.ndarray:
    """Transpose a PyTorch kernel [out, in, ...] to [..., in, out]; a vector is unchanged."""
    if array.ndim == 1:
        return array
    return np.ascontiguousarray(np.moveaxis(array, (1, 0), (-2, -1)))
