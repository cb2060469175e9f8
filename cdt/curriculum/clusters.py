"""Edges of the clusters: intervals of u, from C_1 (least noise, hardest) to C_N (most noise).

Edges 0 = e_0 < e_1 < ... < e_N = 1 are float64 on the host. `edge_table` converts them to the
float32 table that the sampler draws with and the statistics count with.
"""

from collections.abc import Callable

import jax.numpy as jnp
import numpy as np
from jax import Array
from numpy.typing import ArrayLike


def uniform_edges(num_clusters: int) -> np.ndarray:
    """Return the edges e_i = i/N of N clusters of equal width in u.

    These are equal intervals of t in DDPM and flow matching, and equal quantiles of the log-normal
    distribution of sigma in EDM.

    Args:
      num_clusters: N >= 1.

    Returns:
      f64[N+1].

    Raises:
      ValueError: num_clusters < 1.

    Source: Kim et al. 2025, arXiv 2403.10348, in the coordinate u.
    """
    if num_clusters < 1:
        raise ValueError(f"The number of clusters is {num_clusters}; it must be at least 1.")
    return np.arange(num_clusters + 1, dtype=np.float64) / num_clusters


def snr_edges(
    log_snr: Callable[[np.ndarray], np.ndarray], num_clusters: int, num_levels: int | None = None
) -> np.ndarray:
    """Return the edges of N clusters of equal width in log-SNR.

    The inner edges divide the log-SNR between u = 0.001 and u = 0.999 into N equal parts; the outer
    edges are 0 and 1. In a discrete family every cluster has at least one timestep.

    Args:
      log_snr: f64 u -> f64 log(alpha^2 / sigma^2), decreasing.
      num_clusters: N >= 1.
      num_levels: T >= N, timesteps of a discrete family, whose edges become multiples of 1/T;
        None for a continuous family.

    Returns:
      f64[N+1].

    Raises:
      ValueError: num_clusters < 1.
    """
    if num_clusters < 1:
        raise ValueError(f"The number of clusters is {num_clusters}; it must be at least 1.")
    # Not from 0 to 1, where the log-SNR of EDM and flow matching is infinite.
    u = np.linspace(0.001, 0.999, 99_801)
    snr = np.asarray(log_snr(u), np.float64)
    inner = np.linspace(snr[0], snr[-1], num_clusters + 1)[1:-1]
    # Reversed: np.interp needs increasing abscissae, and the log-SNR decreases with u.
    inner = np.interp(inner, snr[::-1], u[::-1])
    if num_levels is not None:
        i = np.arange(1, num_clusters)
        # From one timestep to the next the log-SNR can fall by more than the width of a cluster
        # (linear DDPM at the clean end, cosine DDPM at the noisy end), so edges can coincide. Move
        # them up until they are one timestep apart, then down where they pass the noisy end.
        inner = np.maximum.accumulate(np.maximum(np.rint(inner * num_levels), 1) - i) + i
        inner = np.minimum(inner, num_levels - num_clusters + i) / num_levels
    return np.concatenate([[0.0], inner, [1.0]])


def custom_edges(edges: ArrayLike) -> np.ndarray:
    """Check the user's own edges and return them as f64[N+1].

    Args:
      edges: N+1 >= 2 numbers, strictly increasing from 0 to 1.

    Raises:
      ValueError: fewer than two edges, edges not strictly increasing, or ends other than 0 and 1.
    """
    edges = np.asarray(edges, np.float64)
    if edges.ndim != 1 or edges.size < 2:
        raise ValueError(
            f"The cluster edges are {edges.tolist()}; they must be a list of at least two numbers."
        )
    if edges[0] != 0.0 or edges[-1] != 1.0:
        raise ValueError(
            f"The cluster edges run from {edges[0]:g} to {edges[-1]:g}; they must start at 0 and "
            "end at 1."
        )
    if not np.all(np.diff(edges) > 0):
        raise ValueError(
            f"The cluster edges are {edges.tolist()}; they must be strictly increasing."
        )
    return edges


def edge_table(edges: np.ndarray, num_levels: int | None) -> np.ndarray:
    """Return the edges as the float32 table that draws levels and counts them.

    In a discrete family each edge is rounded to a multiple k/T, stored as the smallest float32 u
    with floor(u T) = k.

    Args:
      edges: f64[N+1], strictly increasing from 0 to 1.
      num_levels: T, timesteps of a discrete family; None for a continuous family.

    Returns:
      f32[N+1], strictly increasing from 0 to 1.

    Raises:
      ValueError: two edges are equal after rounding (N > T, or a cluster narrower than a timestep).
    """
    if num_levels is None:
        table = edges.astype(np.float32)
    else:
        # Not the float32 nearest to k/T: for some k (251 of T = 1000) it is one ulp too small, and
        # floor(u T) is k - 1.
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
        resolution = f"{num_levels} timesteps" if num_levels else "float32"
        raise ValueError(
            f"{clusters} clusters are too many for {resolution}: two neighbouring edges are equal; "
            "use fewer clusters, or clusters of equal width."
        )
    return table


def cluster_index(u: Array, edges: Array | np.ndarray) -> Array:
    """Return the cluster of each noise level.

    Args:
      u: f32[B] in [0, 1).
      edges: f32[N+1] from `edge_table`.

    Returns:
      int32[B] in 0..N-1; 0 is C_1, the cluster with the least noise.
    """
    # Counts the inner edges at or below u: with a few dozen clusters this is faster on an
    # accelerator than a binary search.
    return jnp.sum(u[:, None] >= jnp.asarray(edges)[1:-1], axis=1, dtype=jnp.int32)
