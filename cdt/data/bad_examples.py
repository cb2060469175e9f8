"""Data sets of which a few examples are damaged: others take their places."""

import logging

import numpy as np

from cdt.data.sources import BadExample, Source
from cdt.errors import UserError

_LOG = logging.getLogger(__name__)


class Examples:
    """Reads a source's examples; the next good one takes the place of each that is damaged.

    What is read is a function of the data alone: it depends neither on what was read before nor on
    the process that reads. Each damaged example is named in the log once.

    Args:
      source: the data; N = source.size.
      max_bad_fraction: in [0, 1); more than this fraction of N may not be damaged.

    Attributes:
      num_bad: damaged examples met so far.
    """

    def __init__(self, source: Source, max_bad_fraction: float):
        if not 0.0 <= max_bad_fraction < 1.0:
            raise ValueError(f"max_bad_fraction is {max_bad_fraction}; it must lie in [0, 1).")
        self._source = source
        self._max_bad_fraction = max_bad_fraction
        self._limit = int(max_bad_fraction * source.size)
        self._bad: dict[int, str] = {}

    @property
    def num_bad(self) -> int:
        return len(self._bad)

    def read(self, indices: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(indices int64[n] of the examples read, their images), for indices int64[n].

        Raises:
          UserError: too many examples are damaged.
        """
        indices = np.array([self._next_good(int(index)) for index in indices], np.int64)
        try:
            return indices, self._source.images(indices)
        except BadExample:  # one of them at least, so find out which
            found = [self._read_one(int(index)) for index in indices]
            return np.array([index for index, _ in found]), np.stack([image for _, image in found])

    def images(self, indices: np.ndarray) -> np.ndarray:
        """As `Source.images`, where nobody asks for the labels."""
        return self.read(indices)[1]

    def _next_good(self, index: int) -> int:
        """The first of index, index + 1, ... that is not known to be damaged."""
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
                f"damaged, and config.data.max_bad_fraction = {self._max_bad_fraction} allows "
                f"{self._limit}; the first: {next(iter(self._bad.values()))}. Mend the data, or "
                "leave them out with python -m cdt.data.prepare --on_bad=skip, or allow more."
            )
        _LOG.warning(
            f"{reason}. The next example takes its place: {len(self._bad)} damaged of at most "
            f"{self._limit} (config.data.max_bad_fraction)."
        )
