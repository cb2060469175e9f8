"""Metrics of samples: distances between sets of images in a feature space.

feature spaces        pixels, inception, efficientnet_lite0, in_batches, Activations,
                      FeatureFn
sets of images        read_images, summarise, Summary, in_blocks
reference sets        source_reference, file_reference, Reference
all metrics           compare, scores
FID                   frechet_distance, Statistics, RunningStatistics
KID                   kernel_distance
Inception Score       inception_score
precision and recall  precision_recall, radii
nearest neighbours    mean_nearest_distance
"""

from cdt.evals.efficientnet_lite import efficientnet_lite0
from cdt.evals.features import Activations, FeatureFn, in_batches, pixels
from cdt.evals.frechet import RunningStatistics, Statistics, frechet_distance
from cdt.evals.images import read_images
from cdt.evals.inception import inception
from cdt.evals.inception_score import inception_score
from cdt.evals.kid import kernel_distance
from cdt.evals.metrics import compare, scores
from cdt.evals.neighbours import mean_nearest_distance
from cdt.evals.precision_recall import precision_recall, radii
from cdt.evals.reference import Reference, file_reference, source_reference
from cdt.evals.summary import Summary, in_blocks, summarise

__all__ = [
    "Activations", "FeatureFn", "Reference", "RunningStatistics", "Statistics", "Summary",
    "compare", "efficientnet_lite0", "file_reference", "frechet_distance", "in_batches",
    "in_blocks", "inception", "inception_score", "kernel_distance", "mean_nearest_distance",
    "pixels", "precision_recall", "radii", "read_images", "scores", "source_reference", "summarise",
]  # fmt: skip
