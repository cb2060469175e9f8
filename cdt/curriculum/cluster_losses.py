"""Training loss per cluster, summed on the device between two log lines."""

from typing import NamedTuple

import jax.numpy as jnp
from jax import Array


class ClusterStatistics(NamedTuple):
    """Part of the train state, so that a resumed run logs what the undisturbed one would."""

    loss_sum: Array  # f32[N], sum of per-example losses of the window so far
    count: Array  # type: ignore[assignment]  # f32[N], examples of the window; not tuple.count
    initial_loss: Array  # f32[M], validation loss before the first step; NaN until measured


def init(num_clusters: int, num_validated: int) -> ClusterStatistics:
    """Empty statistics for N clusters that are trained on, and M that are validated on."""
    zeros = jnp.zeros(num_clusters, jnp.float32)
    return ClusterStatistics(zeros, zeros, jnp.full(num_validated, jnp.nan, jnp.float32))


def accumulate(
    statistics: ClusterStatistics, index: Array, loss: Array, valid: Array, restart: Array
) -> ClusterStatistics:
    """Add one global batch.

    Compares and reduces instead of scattering: a scatter-add need not be deterministic on a GPU.

    Args:
      statistics: so far.
      index: int32[B] cluster of each example.
      loss: f32[B].
      valid: bool[], whether the batch counts (a batch with bad numbers does not).
      restart: bool[], whether this batch starts a new window.
    """
    num_clusters = statistics.count.shape[0]
    member = (index[:, None] == jnp.arange(num_clusters)) & valid
    loss_sum = jnp.sum(jnp.where(member, loss[:, None], 0.0), axis=0)
    count = jnp.sum(member, axis=0, dtype=jnp.float32)
    return statistics._replace(
        loss_sum=jnp.where(restart, 0.0, statistics.loss_sum) + loss_sum,
        count=jnp.where(restart, 0.0, statistics.count) + count,
    )


def mean_loss(statistics: ClusterStatistics) -> Array:
    """f32[N]: mean loss of each cluster in the window; NaN where it had no example."""
    return statistics.loss_sum / jnp.where(statistics.count > 0, statistics.count, jnp.nan)
