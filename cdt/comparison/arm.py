"""One way of training, read from the histories of its runs."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

# The records of a finished run in order. Each has "step", "time" and some scalars by name.
History = Sequence[Mapping[str, Any]]


class Arm(NamedTuple):
    """One way of training, with S seeds. Lower values of `metric` are better.

    Attributes:
      name: as the config gives it.
      steps: int[k], training steps of the evaluations, increasing.
      metric: f64[S, k], its value at each evaluation.
      seconds: f64[S, k], time of each evaluation since the run's first record.
      validation_steps: int[v], increasing from 0.
      validation: f64[S, v, N], validation loss per cluster, without loss weight.
      stage_lengths: int[S, stages] in steps; None without a curriculum.
      others: other metric -> f64[S], at the end.
    """

    name: str
    steps: np.ndarray
    metric: np.ndarray
    seconds: np.ndarray
    validation_steps: np.ndarray
    validation: np.ndarray
    stage_lengths: np.ndarray | None
    others: dict[str, np.ndarray]


def read_arm(name: str, histories: Sequence[History], prefix: str, average: str) -> Arm:
    """Read an arm from the histories of its runs.

    Args:
      name: of the arm.
      histories: one per seed.
      prefix: that of the names of its metrics, such as "evaluation_pixels".
      average: name of the weights that were evaluated: an EMA such as "0.9999", or "raw".
    """
    key, suffix = f"{prefix}/frechet/ema_{average}", f"/ema_{average}"
    steps, values, seconds, validation_steps, validation, stages = [], [], [], [], [], []
    others: dict[str, list[float]] = {}
    for history in histories:
        evaluated = [record for record in history if key in record]
        steps.append([record["step"] for record in evaluated])
        values.append([record[key] for record in evaluated])
        seconds.append([record["time"] - history[0]["time"] for record in evaluated])
        for metric, value in evaluated[-1].items():
            if metric.startswith(prefix) and metric.endswith(suffix) and metric != key:
                others.setdefault(metric[len(prefix) + 1 : -len(suffix)], []).append(value)
        validated = [record for record in history if "validation_loss" in record]
        validation_steps.append([record["step"] for record in validated])
        validation.append([_numbered(record, "validation_loss/") for record in validated])
        others.setdefault("validation_loss", []).append(validated[-1]["validation_loss"])
        logged = [record for record in history if "loss" in record][-1]
        stages.append([int(n) for n in _numbered(logged, "stage_length/")])
    return Arm(
        name,
        np.array(steps[0]),
        np.array(values),
        np.array(seconds),
        np.array(validation_steps[0]),
        np.array(validation),
        np.array(stages) if stages[0] else None,
        {metric: np.array(found) for metric, found in others.items()},
    )


def _numbered(record: Mapping[str, Any], prefix: str) -> list[float]:
    """Return the values whose names have that prefix, in their order."""
    return [value for name, value in record.items() if name.startswith(prefix)]
