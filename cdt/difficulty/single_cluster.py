"""A timestep sampler that draws from one cluster only."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from cdt.timesteps.base import Draw, TimestepSampler


class SingleClusterState(NamedTuple):
    """The cluster to draw from.

    Attributes:
      cluster: int32[], 0-based: 0 is the cluster of least noise.
    """

    cluster: Array


def single_cluster(edges: np.ndarray) -> TimestepSampler:
    """Return a sampler of levels that are uniform in the cluster that its state names.

    The cluster is part of the state, so one compiled step serves every cluster. The first state is
    cluster 0; replace the state to choose another.

    Args:
      edges: f32[N+1] from `curriculum.clusters.edge_table`.
    """
    lower = jnp.asarray(edges[:-1])
    width = jnp.asarray(np.diff(edges))
    # The product below can round up to the upper edge, which belongs to the next cluster; u = 1 is
    # no level at all.
    upper = jnp.asarray(np.nextafter(edges[1:], np.float32(0)))

    def sample(state: SingleClusterState, key: Array, n: int) -> Draw:
        k = state.cluster
        u = lower[k] + width[k] * jax.random.uniform(key, (n,), jnp.float32)
        return Draw(jnp.clip(u, lower[k], upper[k]), jnp.ones_like(u))

    return TimestepSampler(
        init=lambda: SingleClusterState(jnp.int32(0)),
        sample=sample,
        update=lambda state, draw, feedback, step: state,
        metrics=lambda state: {},
    )
