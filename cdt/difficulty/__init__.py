"""Two measures of how hard each noise level is: convergence per cluster and relative entropy.

relative entropy      relative_entropy, RelativeEntropy, level_pairs, LevelPairs,
                      isotropic_gaussians
convergence           make_programs, train_each_cluster, side_by_side, ClusterPrograms, Curve,
                      steps_to, rank_correlation, Correlation
one cluster's levels  single_cluster, SingleClusterState
verdict in words      study_verdict, contrast, Contrast
a fitted curriculum   fitted_curriculum, fitted_edges, fitted_order
tables                entropy_csv, convergence_csv

`figures` plots both measures.
"""

from cdt.difficulty.convergence import (
    ClusterPrograms,
    Correlation,
    Curve,
    make_programs,
    rank_correlation,
    side_by_side,
    steps_to,
    train_each_cluster,
)
from cdt.difficulty.relative_entropy import (
    LevelPairs,
    RelativeEntropy,
    isotropic_gaussians,
    level_pairs,
    relative_entropy,
)
from cdt.difficulty.single_cluster import SingleClusterState, single_cluster
from cdt.difficulty.verdict import (
    Contrast,
    contrast,
    convergence_csv,
    entropy_csv,
    fitted_curriculum,
    fitted_edges,
    fitted_order,
    study_verdict,
)

__all__ = [
    "ClusterPrograms", "Contrast", "Correlation", "Curve", "LevelPairs", "RelativeEntropy",
    "SingleClusterState", "contrast", "convergence_csv", "entropy_csv", "fitted_curriculum",
    "fitted_edges", "fitted_order", "isotropic_gaussians", "level_pairs", "make_programs",
    "rank_correlation", "relative_entropy", "side_by_side", "single_cluster", "steps_to",
    "study_verdict", "train_each_cluster",
]  # fmt: skip
