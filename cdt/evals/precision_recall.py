"""Improved precision and recall (Kynkaanniemi et al. 2019, arXiv 1904.06991)."""

import numpy as np

_BLOCK = 2048


def precision_recall(samples: np.ndarray, reference: np.ndarray, k: int = 3) -> tuple[float, float]:
    """(precision, recall): the share of each set that lies on the other's estimated manifold.

    The manifold of a set is the union of balls around its points, each reaching to the point's
    k-th nearest neighbour in the set. Distances are computed in blocks, never as one n x m matrix:
    beside the features themselves memory is O(block^2 + n + m).

    Args:
      samples: float[n, d]; float32 is enough, blocks are computed in float64.
      reference: float[m, d].
      k: neighbours; 3 in the ADM protocol.

    Raises:
      ValueError: fewer than k + 1 points in a set, or different dimensions.
    """
    if samples.shape[1] != reference.shape[1]:
        raise ValueError(
            f"features of {samples.shape[1]} and {reference.shape[1]} dimensions cannot be compared"
        )
    fewer = min(len(samples), len(reference))
    if fewer <= k:
        raise ValueError(
            f"precision and recall with k = {k} need more than {k} images, got {fewer}"
        )
    return (
        _share_inside(samples, reference, _radii(reference, k)),
        _share_inside(reference, samples, _radii(samples, k)),
    )


def _blocks(x: np.ndarray):
    for start in range(0, len(x), _BLOCK):
        yield start, x[start : start + _BLOCK].astype(np.float64)


def _squared_distances(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    distances = np.sum(a**2, axis=1)[:, None] + np.sum(b**2, axis=1) - 2.0 * a @ b.T
    return np.maximum(distances, 0.0)


def _radii(x: np.ndarray, k: int) -> np.ndarray:
    """Squared distance of each point to its k-th nearest other point."""
    radii = np.empty(len(x))
    for start, rows in _blocks(x):
        nearest = np.full((len(rows), k), np.inf)
        for other, columns in _blocks(x):
            distances = _squared_distances(rows, columns)
            if other == start:
                np.fill_diagonal(distances, np.inf)
            merged = np.concatenate([nearest, distances], axis=1)
            nearest = np.partition(merged, k - 1, axis=1)[:, :k]
        radii[start : start + len(rows)] = nearest.max(axis=1)
    return radii


def _share_inside(points: np.ndarray, centres: np.ndarray, radii: np.ndarray) -> float:
    inside = 0
    for _, rows in _blocks(points):
        found = np.zeros(len(rows), bool)
        for start, columns in _blocks(centres):
            distances = _squared_distances(rows, columns)
            found |= np.any(distances <= radii[start : start + len(columns)], axis=1)
        inside += found.sum()
    return float(inside / len(points))
