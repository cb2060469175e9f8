"""Clusters: intervals of the noise coordinate u, from C_1 (least noise, hardest) to C_N.

Edges 0 = e_0 < e_1 < ... < e_N = 1 are float64 on the host; `edge_table` turns them into the one
float32 table that is used both for drawing levels and for counting them.
"""

from collections.abc import Callable

import jax.numpy as jnp
import numpy as np
from jax import Array
from numpy.typing import ArrayLike


def uniform_edges(num_clusters: int) -> np.ndarray:
    """f64[N+1], e_i = i/N: equal intervals of t in DDPM and flow matching, equal quantiles of the
    log-normal in EDM (Kim et al. 2025, arXiv 2403.10348, in the coordinate u).

    Raises:
      ValueError: num_clusters < 1.
    """
    if num_clusters < 1:
        raise ValueError(f"The number of clusters is {num_clusters}; it must be at least 1.")
    return np.arange(num_clusters + 1, dtype=np.float64) / num_clusters


def snr_edges(
    log_snr: Callable[[np.ndarray], np.ndarray], num_clusters: int, num_levels: int | None = None
) -> np.ndarray:
    """f64[N+1], equally spaced in log-SNR between u = 0.001 and u = 0.999; e_0 = 0 and e_N = 1.

    A discrete family's log-SNR can jump further than a cluster is wide (linear DDPM at its clean
    end, cosine DDPM at its noisy end); there each cluster is given one timestep.

    Args:
      log_snr: f64 u -> f64 log(alpha^2 / sigma^2), decreasing. Its ends u = 0 and u = 1 are
        infinite for EDM and flow matching, hence the margin of 0.001.
      num_clusters: N >= 1.
      num_levels: T >= N of a discrete family, whose edges become multiples of 1/T.

    Raises:
      ValueError: num_clusters < 1.
    """
    if num_clusters < 1:
        raise ValueError(f"The number of clusters is {num_clusters}; it must be at least 1.")
    u = np.linspace(0.001, 0.999, 99_801)
    snr = np.asarray(log_snr(u), np.float64)
    inner = np.linspace(snr[0], snr[-1], num_clusters + 1)[1:-1]
    # np.interp wants increasing abscissae; log-SNR falls with u.
    inner = np.interp(inner, snr[::-1], u[::-1])
    if num_levels is not None:
        i = np.arange(1, num_clusters)
        # Push coinciding edges up, then down again where that ran into the noisy end.
        inner = np.maximum.accumulate(np.maximum(np.rint(inner * num_levels), 1) - i) + i
        inner = np.minimum(inner, num_levels - num_clusters + i) / num_levels
    return np.concatenate([[0.0], inner, [1.0]])


def custom_edges(edges: ArrayLike) -> np.ndarray:
    """f64[N+1]: the user's own edges, checked.

    Raises:
      ValueError: fewer than two edges, not strictly increasing, or not spanning [0, 1].
    """
    edges = np.asarray(edges, np.float64)
    if edges.ndim != 1 or edges.size < 2:
        raise ValueError(f"Cluster edges {edges.tolist()} are not a list of at least two numbers.")
    if edges[0] != 0.0 or edges[-1] != 1.0:
        raise ValueError(
            f"Cluster edges run from {edges[0]:g} to {edges[-1]:g}; they must start at 0 and end "
            "at 1."
        )
    if not np.all(np.diff(edges) > 0):
        raise ValueError(f"Cluster edges {edges.tolist()} are not strictly increasing.")
    return edges


def edge_table(edges: np.ndarray, num_levels: int | None) -> np.ndarray:
    """The float32 edges that draw and count.

    For a discrete family of T levels each edge is snapped to a multiple k/T, represented by the
    smallest float32 whose level floor(u T) is k. (The float32 nearest to k/T is one ulp too small
    for some k, 251 of 1000 for instance, and would belong to the level below.)

    Args:
      edges: f64[N+1], strictly increasing from 0 to 1.
      num_levels: T, or None for a continuous family.

    Returns:
      f32[N+1], strictly increasing from 0 to 1.

    Raises:
      ValueError: two edges fall on the same level (N > T, or clusters narrower than a level).
    """
    if num_levels is None:
        table = edges.astype(np.float32)
    else:
        levels = np.float32(num_levels)
        snapped = []
        for k in np.rint(edges * num_levels):
            edge = np.float32(k / num_levels)
            while edge > 0 and np.floor(np.nextafter(edge, np.float32(0)) * levels) >= k:
                edge = np.nextafter(edge, np.float32(0))
            while np.floor(edge * levels) < k:
                edge = np.nextafter(edge, np.float32(2))
            snapped.append(edge)
        snapped[0], snapped[-1] = np.float32(0), np.float32(1)
        table = np.array(snapped, np.float32)
    if not np.all(np.diff(table) > 0):
        clusters = len(edges) - 1
        what = f"{num_levels} timesteps" if num_levels else "float32 resolution"
        raise ValueError(
            f"{clusters} clusters are too many for {what}: two neighbouring edges coincide; use "
            "fewer clusters, or clusters of equal width."
        )
    return table


def cluster_index(u: Array, edges: Array | np.ndarray) -> Array:
    """int32[B]: the cluster each u f32[B] lies in; 0 is C_1, the hardest.

    Compares with every inner edge and adds: for the few dozen clusters in use this is cheaper on
    an accelerator than a binary search.
    """
    return jnp.sum(u[:, None] >= jnp.asarray(edges)[1:-1], axis=1, dtype=jnp.int32)
