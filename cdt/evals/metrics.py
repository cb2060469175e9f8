"""All metrics of one set of samples against one reference."""

import logging

import numpy as np

from cdt.evals.frechet import frechet_distance
from cdt.evals.inception_score import inception_score
from cdt.evals.kid import kernel_distance
from cdt.evals.precision_recall import precision_recall
from cdt.evals.reference import Reference
from cdt.evals.summary import Summary


def compare(
    samples: Summary, reference: Reference, reference_radii: np.ndarray | None = None
) -> dict[str, float]:
    """Compute all metrics that the two sets have the statistics for.

    Warn if there are fewer samples than dimensions: the Frechet distance is then biased upwards.

    Args:
      samples: the images to evaluate.
      reference: the images to compare with, in the same feature space.
      reference_radii: `precision_recall.radii` of the reference's features, if known; they save
        time when one reference serves many comparisons.

    Returns:
      metric -> value, of "frechet" (with Inception features the FID), "frechet_spatial" (sFID),
      "kernel" and "kernel_standard_error" (KID), "precision" and "recall".

    Raises:
      ValueError: the reference has another feature space or image size.
    """
    mine, theirs = samples.statistics, reference.summary.statistics
    if mine.n < len(mine.mu):
        logging.warning(
            f"There are {mine.n} samples, fewer than the {len(mine.mu)} dimensions of the "
            "features, so the Frechet distance is biased upwards. Compare it only with values of "
            "the same number of samples."
        )
    values = {"frechet": frechet_distance(mine, theirs)}
    if samples.spatial is not None and reference.summary.spatial is not None:
        values["frechet_spatial"] = frechet_distance(samples.spatial, reference.summary.spatial)
    made, known = samples.features, reference.summary.features
    if made is not None and known is not None and min(len(made), len(known)) >= 20:
        values["kernel"], values["kernel_standard_error"] = kernel_distance(made, known)
        values["precision"], values["recall"] = precision_recall(
            made, known, reference_radii=reference_radii
        )
    return values


def scores(samples: Summary) -> dict[str, float]:
    """Compute the metrics that need no reference.

    Returns:
      metric -> value, of "inception_score" and "inception_score_deviation"; empty without logits.
    """
    if samples.logits is None:
        return {}
    mean, deviation = inception_score(samples.logits)
    return {"inception_score": mean, "inception_score_deviation": deviation}
