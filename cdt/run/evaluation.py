"""Comparison of a run's samples with a reference, during training and after it."""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from etils import epath
from ml_collections import ConfigDict

from cdt import from_config
from cdt.data.sources import Source
from cdt.evals import metrics
from cdt.evals.features import FeatureFn
from cdt.evals.precision_recall import radii
from cdt.evals.reference import Reference, file_reference, source_reference
from cdt.evals.summary import Summary, in_blocks, summarise
from cdt.monitoring import console
from cdt.run.images import Generator
from cdt.run.open_run import OpenRun

PyTree = Any


def make_evaluation(
    run: OpenRun, generator: Generator, train: Source
) -> Callable[[PyTree], dict[str, float]]:
    """Return evaluation(params) -> {metric: value}, for use during training.

    It compares samples with the training images or with `evaluate.reference`. All processes
    generate; process 0 computes the metrics, and the others get an empty dict.

    Args:
      run: the run.
      generator: makes its samples.
      train: the training data.

    Raises:
      UserError: the feature network's weights or the reference cannot be used, or the data are
        latents and no reference is given.
    """
    config, n = run.config, run.config.evaluate.num
    feature_fn = from_config.feature_space(config)
    if jax.process_index() > 0:

        def takes_part(params: PyTree) -> dict[str, float]:
            generator.images(params, n)
            return {}

        return takes_part
    if config.evaluate.reference:
        with console.phase(f"reading the reference {config.evaluate.reference}"):
            reference = file_reference(config.evaluate.reference, feature_fn)
    else:
        reference = reference_of(config, run.path, train, feature_fn)
    known = reference.summary.features
    reference_radii = None if known is None else radii(known)

    def evaluation(params: PyTree) -> dict[str, float]:
        images = generator.images(params, n)
        assert images is not None  # this is process 0
        samples = features_of(images, feature_fn)
        with console.phase("computing metrics"):
            return metrics.scores(samples) | metrics.compare(samples, reference, reference_radii)

    return evaluation


def reference_of(
    config: ConfigDict, workdir: epath.Path, source: Source, feature_fn: FeatureFn
) -> Reference:
    """Return the reference of a data set, from `evaluate.reference_cache` or the workdir if it is
    cached there; otherwise compute and cache it."""
    cache = epath.Path(config.evaluate.reference_cache or workdir / "references")
    examples = from_config.examples(config, source)
    with console.phase(f"computing reference features of {source.name}", source.size) as computing:

        def images(indices: np.ndarray) -> np.ndarray:
            computing.count(len(indices))
            return examples.images(indices)

        return source_reference(source._replace(images=images), feature_fn, cache)


def features_of(images: np.ndarray, feature_fn: FeatureFn) -> Summary:
    """Return the statistics and features of images uint8[n, H, W, C]."""
    n = len(images)
    with console.phase(f"computing features of {n:,} images", n) as computing:
        return summarise(computing.counted(in_blocks(images)), feature_fn)


def scalars(config: ConfigDict, values: dict[str, dict[str, float]]) -> dict[str, float]:
    """Return {EMA: {metric: value}} as {"evaluation_<features>/<metric>/ema_<EMA>": value}."""
    return {
        f"evaluation_{config.evaluate.features}/{metric}/ema_{average}": value
        for average, found in values.items()
        for metric, value in found.items()
    }
