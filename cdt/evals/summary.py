"""One pass over images: everything the metrics need of them, in bounded memory."""

from collections.abc import Callable, Iterable
from typing import NamedTuple

import numpy as np

from cdt.evals.features import Activations, FeatureFn
from cdt.evals.frechet import RunningStatistics, Statistics


class Summary(NamedTuple):
    """What a set of images looks like in a feature space."""

    statistics: Statistics  # of the features
    spatial: Statistics | None  # of the spatial features, where the space has them
    features: np.ndarray | None  # float32[m, d] of the images that were kept; None if unknown
    logits: np.ndarray | None  # float32[m, classes] of the same, where the space has them


def summarise(
    blocks: Iterable[np.ndarray],
    feature_fn: FeatureFn,
    keep: Callable[[np.ndarray], np.ndarray] | None = None,
) -> Summary:
    """Run every image through `feature_fn` once; accumulate in float64.

    Args:
      blocks: uint8[n_i, H, W, C].
      feature_fn: see `features`.
      keep: int64[n_i] numbers of images -> bool[n_i], whose features are kept; None keeps all.

    Raises:
      ValueError: fewer than two images, or features that are not finite.
    """
    statistics, spatial = RunningStatistics(), RunningStatistics()
    features, logits, start = [], [], 0
    found: Activations[np.ndarray] = Activations(np.zeros((0, 0)))
    for images in blocks:
        found = feature_fn(images)
        if not np.isfinite(found.features).all():
            raise ValueError(f"some image has features '{feature_fn.__name__}' that are not finite")
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
    """images [n, ...] in blocks of at most `size`."""
    return (images[start : start + size] for start in range(0, len(images), size))
