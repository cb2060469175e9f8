"""Which part of the noise coordinate u is open, and when more of it opens.

the timestep sampler    curriculum, opening_order, CurriculumState
when a cluster opens    patience, fixed, Pacing, PacingState
edges of clusters in u  uniform_edges, snr_edges, custom_edges, edge_table, cluster_index
losses of clusters      ClusterStatistics
"""

from cdt.curriculum.cluster_losses import ClusterStatistics
from cdt.curriculum.clusters import (
    cluster_index,
    custom_edges,
    edge_table,
    snr_edges,
    uniform_edges,
)
from cdt.curriculum.pacing import Pacing, PacingState, fixed, patience
from cdt.curriculum.sampler import CurriculumState, curriculum, opening_order

__all__ = [
    "ClusterStatistics", "CurriculumState", "Pacing", "PacingState", "cluster_index", "curriculum",
    "custom_edges", "edge_table", "fixed", "opening_order", "patience", "snr_edges",
    "uniform_edges",
]  # fmt: skip
