"""State dicts of PyTorch as they become parameters of Flax modules.

The messages of all errors end a sentence that names the file.
"""

from collections.abc import Mapping

import numpy as np

# The last part of a leaf's path -> that of its name in PyTorch.
LEAVES = {"kernel": "weight", "scale": "weight", "table": "weight", "bias": "bias"}


class StateDict:
    """The arrays of a state dict {name: array of any float type}, each to be taken once."""

    def __init__(self, state: Mapping[str, np.ndarray]):
        self._left = dict(state)

    def take(self, name: str, shape: tuple[int, ...]) -> np.ndarray:
        """The array of that name, as f32.

        Raises:
          ValueError: there is none, it was taken before, or it has another shape.
        """
        if name not in self._left:
            raise ValueError(f"it has no {name}")
        array = self._left.pop(name)
        if array.shape != tuple(shape):
            raise ValueError(f"its {name} is {list(array.shape)} and not {list(shape)}")
        return np.asarray(array, np.float32)

    def check_empty(self) -> None:
        """Raise ValueError if an array was not taken."""
        if self._left:
            raise ValueError(f"its {next(iter(self._left))} has no place in this network")


def torch_shape(shape: tuple[int, ...]) -> tuple[int, ...]:
    """The shape in PyTorch of a kernel [..., in, out]: [out, in, ...]; of a vector its own."""
    return (*shape[:-3:-1], *shape[:-2])


def to_flax(array: np.ndarray) -> np.ndarray:
    """A kernel of PyTorch [out, in, ...] as [..., in, out]; a vector stays."""
    if array.ndim == 1:
        return array
    return np.ascontiguousarray(np.moveaxis(array, (1, 0), (-2, -1)))
