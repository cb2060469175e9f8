"""Kernel Inception Distance (Binkowski et al. 2018, arXiv 1801.01401)."""

import numpy as np

_BLOCK = 1000  # features per block, as many as in the paper's subsets
_LEAST_BLOCKS = 10  # for the standard error


def kernel_distance(a: np.ndarray, b: np.ndarray, seed: int = 0) -> tuple[float, float]:
    """Estimate the squared MMD of two sets of features with the kernel (x.y / d + 1)^3.

    It is the mean of the unbiased estimator over disjoint random blocks of both sets. Disjoint
    blocks are independent, so they give a correct standard error; overlapping subsets do not. With
    Inception's features this is the KID.

    Args:
      a: float[n, d], n >= 20.
      b: float[m, d], m >= 20.
      seed: of the shuffle, which makes blocks independent of the order of the classes.

    Returns:
      (estimate, standard error). The estimate may be slightly negative if the sets agree.

    Raises:
      ValueError: too few features, or different dimensions.
    """
    if a.shape[1] != b.shape[1]:
        raise ValueError(
            f"The features have {a.shape[1]} and {b.shape[1]} dimensions; give two sets of one "
            "feature space."
        )
    fewer = min(len(a), len(b))
    size = min(_BLOCK, fewer // _LEAST_BLOCKS)
    if size < 2:
        raise ValueError(
            f"The smaller set has {fewer} images; a kernel distance needs at least 20 in each set."
        )
    rng = np.random.default_rng(seed)
    a, b = a[rng.permutation(len(a))], b[rng.permutation(len(b))]
    estimates = [
        _unbiased(a[i : i + size].astype(np.float64), b[i : i + size].astype(np.float64))
        for i in range(0, fewer - size + 1, size)
    ]
    return float(np.mean(estimates)), float(np.std(estimates, ddof=1) / np.sqrt(len(estimates)))


def _unbiased(a: np.ndarray, b: np.ndarray) -> float:
    """Return the unbiased estimate of the squared MMD of f64[n, d] and f64[n, d]."""
    n, d = a.shape

    def kernel(x: np.ndarray, y: np.ndarray) -> np.ndarray:
        return (x @ y.T / d + 1) ** 3

    def off_diagonal_mean(k: np.ndarray) -> np.floating:
        return (k.sum() - np.trace(k)) / (n * (n - 1))

    return (
        off_diagonal_mean(kernel(a, a)) + off_diagonal_mean(kernel(b, b)) - 2 * kernel(a, b).mean()
    )
