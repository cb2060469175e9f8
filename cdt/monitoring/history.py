"""Convergence of each noise cluster and stages of the curriculum, from the metrics of a run."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from cdt.monitoring.plots import normalised_convergence


class Convergence(NamedTuple):
    """The validation loss of each noise cluster over training."""

    steps: np.ndarray  # int[k], steps done at each validation
    losses: np.ndarray  # f64[k, N]; column 0 is the cluster of least noise
    normalised: np.ndarray  # f64[k, N]: fraction of each loss's drop still to come, from 1 to 0
    stage_lengths: np.ndarray  # int[N] steps in each stage; empty without a curriculum

    @property
    def stage(self) -> int:
        """The last stage reached, counted from 1; 0 without a curriculum."""
        return int(np.max(np.flatnonzero(self.stage_lengths), initial=-1)) + 1

    @property
    def stage_starts(self) -> np.ndarray:
        """The steps at which further clusters were opened."""
        return np.cumsum(self.stage_lengths)[:-1][self.stage_lengths[1:] > 0]


def convergence(history: Sequence[Mapping[str, float]]) -> Convergence:
    """Return the convergence from the records of `cdt.monitoring.writers.read_history`.

    Raises:
      ValueError: there is no validation loss yet.
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
