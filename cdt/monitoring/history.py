"""What a run's metrics tell of each noise cluster: how its loss fell, and when it was opened."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from cdt.monitoring.plots import normalised_convergence


class Convergence(NamedTuple):
    """The validation loss of each noise cluster over training."""

    steps: np.ndarray  # int[k] at which it was measured
    losses: np.ndarray  # f64[k, N]; column 0 is the cluster of least noise, the hardest
    normalised: np.ndarray  # f64[k, N]: what is left of each loss's drop, from 1 to 0
    stage_lengths: np.ndarray  # int[N] steps in each stage; empty without a curriculum

    @property
    def stage(self) -> int:
        """The stage reached, from 1 on; 0 without a curriculum."""
        return int(np.max(np.flatnonzero(self.stage_lengths), initial=-1)) + 1

    @property
    def stage_starts(self) -> np.ndarray:
        """Steps at which a further cluster was opened."""
        return np.cumsum(self.stage_lengths)[:-1][self.stage_lengths[1:] > 0]


def convergence(history: Sequence[Mapping[str, float]]) -> Convergence:
    """Read it from the records of `cdt.monitoring.writers.read_history`.

    Raises:
      ValueError: nothing was validated yet.
    """
    validated = [record for record in history if _values(record, "validation_loss/")]
    if not validated:
        raise ValueError(
            "no validation loss is in this run's metrics; train until the first validation."
        )
    losses = np.array([_values(record, "validation_loss/") for record in validated], np.float64)
    logged = [_values(record, "stage_length/") for record in history]
    lengths = next((found for found in reversed(logged) if found), [])
    return Convergence(
        np.array([record["step"] for record in validated]),
        losses,
        normalised_convergence(losses),
        np.array(lengths, np.int64),
    )


def _values(record: Mapping[str, float], prefix: str) -> list[float]:
    return [value for name, value in record.items() if name.startswith(prefix)]
