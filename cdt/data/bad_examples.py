"""Reading of data sets in which a few examples are damaged."""

import logging

import numpy as np

from cdt.data.sources import BadExample, Source
from cdt.errors import UserError

_LOG = logging.getLogger(__name__)


class Examples:
    """Reader of a source that replaces each damaged example by the next good one.

    The result is a function of the data alone. It does not depend on earlier reads or on the
    process that reads. Each damaged example is logged once.

    Args:
      source: the data; N = source.size.
      max_bad_fraction: in [0, 1), largest allowed number of damaged examples divided by N.

    Attributes:
      num_bad: number of damaged examples found so far.
    """

    def __init__(self, source: Source, max_bad_fraction: float):
        if not 0.0 <= max_bad_fraction < 1.0:
            raise ValueError(f"max_bad_fraction is {max_bad_fraction}; it must be in [0, 1).")
        self._source = source
        self._max_bad_fraction = max_bad_fraction
        self._limit = int(max_bad_fraction * source.size)
        self._bad: dict[int, str] = {}

    @property
    def num_bad(self) -> int:
        return len(self._bad)

    def read(self, indices: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the indices of the examples that were read, and their images.

        Args:
          indices: int64[n], the requested examples.

        Returns:
          (int64[n], images[n, ...]); an index differs from the requested one where that example
          is damaged.

        Raises:
          UserError: too many examples are damaged.
        """
        indices = np.array([self._next_good(int(index)) for index in indices], np.int64)
        try:
            return indices, self._source.images(indices)
        except BadExample:  # at least one is damaged: read one by one to find it
            found = [self._read_one(int(index)) for index in indices]
            return np.array([index for index, _ in found]), np.stack([image for _, image in found])

    def images(self, indices: np.ndarray) -> np.ndarray:
        """Return the images alone, like `Source.images`."""
        return self.read(indices)[1]

    def _next_good(self, index: int) -> int:
        """Return the first of index, index + 1, ... that is not known to be damaged."""
        while index in self._bad:
            index = (index + 1) % self._source.size
        return index

    def _read_one(self, index: int) -> tuple[int, np.ndarray]:
        while True:
            index = self._next_good(index)
            try:
                return index, self._source.images(np.array([index]))[0]
            except BadExample as error:
                self._add(index, str(error))

    def _add(self, index: int, reason: str) -> None:
        self._bad[index] = reason
        if len(self._bad) > self._limit:
            raise UserError(
                f"{len(self._bad)} of the {self._source.size} examples of {self._source.name} are "
                f"damaged; config.data.max_bad_fraction = {self._max_bad_fraction} allows "
                f"{self._limit}. The first: {next(iter(self._bad.values()))}. Fix the data, skip "
                "damaged examples with python -m cdt.data.prepare --on_bad=skip, or increase "
                "config.data.max_bad_fraction."
            )
        _LOG.warning(
            f"{reason}. It is replaced by the next good example. Damaged so far: "
            f"{len(self._bad)}, allowed: {self._limit} (config.data.max_bad_fraction)."
        )
