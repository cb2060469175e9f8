"""Nearest-neighbour distances, which show a model that repeats its training set."""

import numpy as np


def mean_nearest_distance(a: np.ndarray, b: np.ndarray, block: int = 1024) -> float:
    """Mean over the rows of `a` of the Euclidean distance to the nearest row of `b`.

    Samples that lie much closer to the training set than held-out images do are copies.

    Args:
      a: float64[n, d], features.
      b: float64[m, d], features in the same space.
      block: rows of `a` and of `b` compared at a time; bounds memory to O(block^2 + n + m).

    Returns:
      The mean distance, in units of the features; exactly 0 if every row of `a` is a row of `b`.

    Raises:
      ValueError: if either is empty or the dimensions differ.
    """
    if len(a) == 0 or len(b) == 0:
        raise ValueError(f"nearest neighbours need both sets non-empty, got {len(a)} and {len(b)}")
    if a.shape[1] != b.shape[1]:
        raise ValueError(f"features of {a.shape[1]} and {b.shape[1]} dimensions cannot be compared")
    total = 0.0
    for i in range(0, len(a), block):
        rows = a[i : i + block]
        best = np.full(len(rows), np.inf)
        nearest = np.zeros(len(rows), np.int64)
        for j in range(0, len(b), block):
            others = b[j : j + block]
            # |x - y|^2 less |x|^2, which does not change which y is nearest.
            scores = np.sum(others**2, axis=1) - 2.0 * rows @ others.T
            index = scores.argmin(axis=1)
            score = np.take_along_axis(scores, index[:, None], axis=1)[:, 0]
            nearest = np.where(score < best, j + index, nearest)
            best = np.minimum(score, best)
        # The scores cancel where x is close to y, so the distance itself is taken directly.
        total += np.linalg.norm(rows - b[nearest], axis=1).sum()
    return float(total / len(a))
