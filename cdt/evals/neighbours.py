"""Nearest-neighbour distances, which show whether a model copies its training set."""

import numpy as np


def mean_nearest_distance(a: np.ndarray, b: np.ndarray, block: int = 1024) -> float:
    """Return the mean Euclidean distance from the rows of `a` to their nearest rows of `b`.

    Samples that are much closer to the training set than held-out images are copies.

    Args:
      a: float64[n, d], features.
      b: float64[m, d], features in the same space.
      block: rows of `a` and of `b` compared at a time; memory is O(block^2 + n + m).

    Returns:
      the mean distance, in units of the features; exactly 0 if every row of `a` is a row of `b`.

    Raises:
      ValueError: a set is empty, or the dimensions differ.
    """
    if len(a) == 0 or len(b) == 0:
        raise ValueError(
            f"The sets have {len(a)} and {len(b)} images; nearest neighbours need at least 1 in "
            "each."
        )
    if a.shape[1] != b.shape[1]:
        raise ValueError(
            f"The features have {a.shape[1]} and {b.shape[1]} dimensions; give two sets of one "
            "feature space."
        )
    total = 0.0
    for i in range(0, len(a), block):
        rows = a[i : i + block]
        best = np.full(len(rows), np.inf)
        nearest = np.zeros(len(rows), np.int64)
        for j in range(0, len(b), block):
            others = b[j : j + block]
            # |x - y|^2 - |x|^2, which has the same nearest y as |x - y|^2.
            scores = np.sum(others**2, axis=1) - 2.0 * rows @ others.T
            index = scores.argmin(axis=1)
            score = np.take_along_axis(scores, index[:, None], axis=1)[:, 0]
            nearest = np.where(score < best, j + index, nearest)
            best = np.minimum(score, best)
        # The scores lose their digits if x is close to y, so the distance is computed directly.
        total += np.linalg.norm(rows - b[nearest], axis=1).sum()
    return float(total / len(a))
