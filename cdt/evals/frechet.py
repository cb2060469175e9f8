"""Frechet distance between Gaussians fitted to two sets of features (Heusel et al. 2017)."""

from typing import NamedTuple

import numpy as np


class Statistics(NamedTuple):
    """Mean and covariance of n feature vectors.

    Attributes:
      mu: float64[d], the mean.
      sigma: float64[d, d], the covariance, unbiased (divided by n - 1).
      n: number of feature vectors.
    """

    mu: np.ndarray
    sigma: np.ndarray
    n: int


class RunningStatistics:
    """Computes mean and unbiased covariance of features in one pass over batches.

    It adds up centred sums in float64 by the pairwise update of Chan, Golub and LeVeque (1979). The
    update stays precise if the mean is much larger than the deviations.
    """

    def __init__(self) -> None:
        self._n = 0
        self._mu = self._scatter = np.zeros(())

    def add(self, batch: np.ndarray) -> None:
        """Add features float[n, d]."""
        features = np.asarray(batch, np.float64)
        count = len(features)
        if count == 0:
            return
        batch_mu = features.mean(axis=0)
        centred = features - batch_mu
        delta = batch_mu - self._mu
        total = self._n + count
        between = np.outer(delta, delta) * (self._n * count / total)
        self._scatter = self._scatter + centred.T @ centred + between
        self._mu = self._mu + delta * (count / total)
        self._n = total

    def result(self) -> Statistics:
        """Return the statistics of everything added so far.

        Raises:
          ValueError: fewer than two feature vectors were added.
        """
        if self._n < 2:
            raise ValueError(
                f"The number of feature vectors is {self._n}; a covariance needs at least 2."
            )
        return Statistics(self._mu, self._scatter / (self._n - 1), self._n)


def frechet_distance(a: Statistics, b: Statistics) -> float:
    """Return the squared Frechet (2-Wasserstein) distance between two Gaussians.

    It is |mu_a - mu_b|^2 + tr(sigma_a) + tr(sigma_b) - 2 tr((sigma_a sigma_b)^(1/2)). With
    Inception's pool3 features this is the FID.

    Args:
      a: mean and covariance of one set.
      b: those of the other, in the same feature space.

    Returns:
      the distance >= 0, in squared units of the features.

    Raises:
      ValueError: the dimensions differ, or a value is NaN or inf.

    Source: Heusel et al. 2017, arXiv 1706.08500, eq. 6.
    """
    if a.mu.shape != b.mu.shape:
        raise ValueError(
            f"The statistics have {len(a.mu)} and {len(b.mu)} dimensions; give statistics of one "
            "feature space."
        )
    if not all(np.isfinite(x).all() for x in (a.mu, a.sigma, b.mu, b.sigma)):
        raise ValueError("The statistics have NaN or inf; compute them again.")
    # tr((sigma_a sigma_b)^(1/2)) is the sum of the singular values of sigma_a^(1/2) sigma_b^(1/2).
    # A square root of the product, as in scipy's sqrtm, is unreliable if the product is nearly
    # singular (fewer samples than dimensions). Its eigenvalues would lose half the digits.
    root_product = _symmetric_sqrt(a.sigma) @ _symmetric_sqrt(b.sigma)
    overlap = np.linalg.svd(root_product, compute_uv=False).sum()
    distance = np.sum((a.mu - b.mu) ** 2) + np.trace(a.sigma) + np.trace(b.sigma) - 2 * overlap
    return max(float(distance), 0.0)


def _symmetric_sqrt(matrix: np.ndarray) -> np.ndarray:
    """Return the square root of a positive semidefinite matrix."""
    eigenvalues, vectors = np.linalg.eigh(matrix)
    # Rounding makes zero eigenvalues slightly negative.
    return (vectors * np.sqrt(np.clip(eigenvalues, 0.0, None))) @ vectors.T
