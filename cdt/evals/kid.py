"""Kernel Inception Distance (Binkowski et al. 2018, arXiv 1801.01401)."""

import numpy as np

_BLOCK = 1000  # features a block; the paper's subsets have as many
_LEAST_BLOCKS = 10  # for the standard error


def kernel_distance(a: np.ndarray, b: np.ndarray, seed: int = 0) -> tuple[float, float]:
    """(estimate, standard error) of the squared MMD with the kernel (x.y / d + 1)^3.

    The unbiased estimator on disjoint blocks of both sets, drawn without replacement, then
    averaged: being independent, the blocks give an honest standard error, which overlapping random
    subsets do not. May be slightly negative where the sets agree. With Inception's features this
    is the KID.

    Args:
      a, b: float[n, d] and float[m, d], at least 20 of each.
      seed: of the shuffle, so that blocks do not follow the order of the classes.

    Raises:
      ValueError: too few features or different dimensions.
    """
    if a.shape[1] != b.shape[1]:
        raise ValueError(f"features of {a.shape[1]} and {b.shape[1]} dimensions cannot be compared")
    fewer = min(len(a), len(b))
    size = min(_BLOCK, fewer // _LEAST_BLOCKS)
    if size < 2:
        raise ValueError(f"a kernel distance needs at least 20 images of each, got {fewer}")
    rng = np.random.default_rng(seed)
    a, b = a[rng.permutation(len(a))], b[rng.permutation(len(b))]
    estimates = [
        _unbiased(a[i : i + size].astype(np.float64), b[i : i + size].astype(np.float64))
        for i in range(0, fewer - size + 1, size)
    ]
    return float(np.mean(estimates)), float(np.std(estimates, ddof=1) / np.sqrt(len(estimates)))


def _unbiased(a: np.ndarray, b: np.ndarray) -> float:
    n, d = a.shape

    def kernel(x: np.ndarray, y: np.ndarray) -> np.ndarray:
        return (x @ y.T / d + 1) ** 3

    def off_diagonal_mean(k: np.ndarray) -> np.floating:
        return (k.sum() - np.trace(k)) / (n * (n - 1))

    return (
        off_diagonal_mean(kernel(a, a)) + off_diagonal_mean(kernel(b, b)) - 2 * kernel(a, b).mean()
    )
