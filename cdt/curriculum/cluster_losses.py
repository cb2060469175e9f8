"""Training loss per cluster, accumulated on the device between two log lines."""

from typing import NamedTuple

import jax.numpy as jnp
from jax import Array


class ClusterStatistics(NamedTuple):
    """Loss sums of the current log window, and the validation losses before training.

    They are part of the train state, so a resumed run logs the same values as an uninterrupted one.

    Attributes:
      loss_sum: f32[N], sum of the losses of the examples in the window.
      count: f32[N], number of examples in the window.
      initial_loss: f32[M], validation loss before the first step; NaN until it is measured.
    """

    loss_sum: Array
    count: Array  # type: ignore[assignment]  # hides tuple.count
    initial_loss: Array


def init(num_clusters: int, num_validated: int) -> ClusterStatistics:
    """Return empty statistics.

    Args:
      num_clusters: N, number of training clusters.
      num_validated: M, number of validation clusters.
    """
    zeros = jnp.zeros(num_clusters, jnp.float32)
    return ClusterStatistics(zeros, zeros, jnp.full(num_validated, jnp.nan, jnp.float32))


def accumulate(
    statistics: ClusterStatistics, index: Array, loss: Array, valid: Array, restart: Array
) -> ClusterStatistics:
    """Return the statistics with one global batch added.

    Args:
      statistics: the statistics before this batch.
      index: int32[B], cluster of each example, 0..N-1.
      loss: f32[B], loss of each example.
      valid: bool[], False for a bad step (NaN or inf), which adds nothing.
      restart: bool[], True if this batch starts a new window.
    """
    # Compare and reduce instead of a scatter-add, which can be nondeterministic on a GPU.
    num_clusters = statistics.count.shape[0]
    member = (index[:, None] == jnp.arange(num_clusters)) & valid
    loss_sum = jnp.sum(jnp.where(member, loss[:, None], 0.0), axis=0)
    count = jnp.sum(member, axis=0, dtype=jnp.float32)
    return statistics._replace(
        loss_sum=jnp.where(restart, 0.0, statistics.loss_sum) + loss_sum,
        count=jnp.where(restart, 0.0, statistics.count) + count,
    )


def mean_loss(statistics: ClusterStatistics) -> Array:
    """Return the mean loss of each cluster in the window, f32[N]; NaN if it has no example."""
    return statistics.loss_sum / jnp.where(statistics.count > 0, statistics.count, jnp.nan)
