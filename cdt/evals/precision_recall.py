"""Improved precision and recall (Kynkaanniemi et al. 2019, arXiv 1904.06991)."""

import numpy as np

_BLOCK = 2048


def precision_recall(
    samples: np.ndarray,
    reference: np.ndarray,
    k: int = 3,
    reference_radii: np.ndarray | None = None,
) -> tuple[float, float]:
    """Return the fraction of each set that lies on the estimated manifold of the other.

    The manifold of a set is the union of balls around its points; the radius of a ball is the
    distance to the k-th nearest neighbour in the set. Distances are computed in blocks, so memory
    is O(block^2 + n + m) besides the features.

    Args:
      samples: float[n, d]; float32 is enough, because blocks are computed in float64.
      reference: float[m, d].
      k: neighbours; 3 in the ADM protocol.
      reference_radii: `radii(reference, k)`, if already known.

    Returns:
      (precision, recall): the fractions of the samples and of the reference, in [0, 1].

    Raises:
      ValueError: fewer than k + 1 points in a set, or different dimensions.
    """
    if samples.shape[1] != reference.shape[1]:
        raise ValueError(
            f"The features have {samples.shape[1]} and {reference.shape[1]} dimensions; give two "
            "sets of one feature space."
        )
    fewer = min(len(samples), len(reference))
    if fewer <= k:
        raise ValueError(
            f"The smaller set has {fewer} images; precision and recall with k = {k} need at least "
            f"{k + 1} in each set."
        )
    if reference_radii is None:
        reference_radii = radii(reference, k)
    sample_radii = radii(samples, k)
    sample_inside = np.zeros(len(samples), bool)
    reference_inside = np.zeros(len(reference), bool)
    for rows in _blocks(samples):
        for columns in _blocks(reference):
            distances = _squared_distances(samples[rows], reference[columns])
            sample_inside[rows] |= np.any(distances <= reference_radii[columns], axis=1)
            reference_inside[columns] |= np.any(distances <= sample_radii[rows, None], axis=0)
    return float(sample_inside.mean()), float(reference_inside.mean())


def _blocks(x: np.ndarray) -> list[slice]:
    return [slice(start, start + _BLOCK) for start in range(0, len(x), _BLOCK)]


def _squared_distances(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    a, b = a.astype(np.float64), b.astype(np.float64)
    distances = a @ b.T
    distances *= -2.0
    distances += np.sum(a**2, axis=1)[:, None]
    distances += np.sum(b**2, axis=1)
    return np.maximum(distances, 0.0, out=distances)


def radii(x: np.ndarray, k: int = 3) -> np.ndarray:
    """Return the squared distance of each point to its k-th nearest other point.

    Args:
      x: float[n, d].
      k: neighbours.

    Returns:
      f64[n]; inf if n <= k.
    """
    nearest = np.full((len(x), k), np.inf)

    def merge(rows: slice, distances: np.ndarray) -> None:
        closest = np.partition(distances, min(k, distances.shape[1]) - 1, axis=1)[:, :k]
        merged = np.concatenate([nearest[rows], closest], axis=1)
        nearest[rows] = np.partition(merged, k - 1, axis=1)[:, :k]

    blocks = _blocks(x)
    for i, rows in enumerate(blocks):
        for columns in blocks[i:]:  # distances are symmetric: each pair of blocks once
            distances = _squared_distances(x[rows], x[columns])
            if columns == rows:
                np.fill_diagonal(distances, np.inf)
            else:
                merge(columns, distances.T)
            merge(rows, distances)
    return nearest.max(axis=1)
