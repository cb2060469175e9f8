"""Statistics of a set of images for all metrics, in one pass and bounded memory."""

from collections.abc import Callable, Iterable
from typing import NamedTuple

import numpy as np

from cdt.evals.features import Activations, FeatureFn
from cdt.evals.frechet import RunningStatistics, Statistics


class Summary(NamedTuple):
    """Statistics and features of a set of images in one feature space.

    Attributes:
      statistics: of the features.
      spatial: of the spatial features, if the space has them.
      features: float32[m, d] of the images that were kept; None if unknown.
      logits: float32[m, classes] of the same images, if the space has logits.
    """

    statistics: Statistics
    spatial: Statistics | None
    features: np.ndarray | None
    logits: np.ndarray | None


def summarise(
    blocks: Iterable[np.ndarray],
    feature_fn: FeatureFn,
    keep: Callable[[np.ndarray], np.ndarray] | None = None,
) -> Summary:
    """Compute the statistics of a set of images, in float64.

    Args:
      blocks: the images, as blocks uint8[n_i, H, W, C].
      feature_fn: see `features`.
      keep: numbers of images int64[n_i] -> bool[n_i], whether to keep their features; None keeps
        all.

    Raises:
      ValueError: fewer than two images, or features with NaN or inf.
    """
    statistics, spatial = RunningStatistics(), RunningStatistics()
    features, logits, start = [], [], 0
    found: Activations[np.ndarray] = Activations(np.zeros((0, 0)))
    for images in blocks:
        found = feature_fn(images)
        if not np.isfinite(found.features).all():
            raise ValueError(
                f"The features '{feature_fn.__name__}' of an image have NaN or inf; check the "
                "images."
            )
        numbers = np.arange(start, start + len(images))
        kept = np.ones(len(images), bool) if keep is None else keep(numbers)
        start += len(images)
        statistics.add(found.features)
        features.append(found.features[kept].astype(np.float32))
        if found.spatial is not None:
            spatial.add(found.spatial)
        if found.logits is not None:
            logits.append(found.logits[kept].astype(np.float32))
    return Summary(
        statistics.result(),
        None if found.spatial is None else spatial.result(),
        np.concatenate(features),
        np.concatenate(logits) if logits else None,
    )


def in_blocks(images: np.ndarray, size: int = 1000) -> Iterable[np.ndarray]:
    """Split images [n, ...] into blocks of at most `size`."""
    return (images[start : start + size] for start in range(0, len(images), size))
