"""The curriculum over noise levels: clusters of u, their order, and the pacing that opens them.

timestep sampler        curriculum, opening_order, CurriculumState
pacing of the stages    patience, fixed, Pacing, PacingState
cluster edges in u      uniform_edges, snr_edges, custom_edges, edge_table, cluster_index
loss sums per cluster   ClusterStatistics
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
