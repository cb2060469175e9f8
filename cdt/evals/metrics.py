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
    """{metric: value} of what both sets allow.

    frechet (with Inception features the FID), frechet_spatial (sFID), kernel and
    kernel_standard_error (KID), precision, recall. Warns where there are fewer samples than
    dimensions, as the Frechet distance is then biased upwards.

    Args:
      samples, reference: in one feature space.
      reference_radii: `precision_recall.radii` of the reference's features, where a caller that
        compares again and again has kept them.

    Raises:
      ValueError: the reference is of another feature space or image size.
    """
    mine, theirs = samples.statistics, reference.summary.statistics
    if mine.n < len(mine.mu):
        logging.warning(
            f"{mine.n} samples are fewer than the {len(mine.mu)} dimensions of the features: the "
            "Frechet distance is biased upwards; compare only values of the same number of samples."
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
    """{metric: value} of what needs no reference: the Inception Score, where there are logits."""
    if samples.logits is None:
        return {}
    mean, deviation = inception_score(samples.logits)
    return {"inception_score": mean, "inception_score_deviation": deviation}
