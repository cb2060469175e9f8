"""Samples of a run compared with a reference, while it trains and after."""

from collections.abc import Callable
from typing import Any

import jax
from etils import epath
from ml_collections import ConfigDict

from cdt import from_config
from cdt.data.sources import Source
from cdt.errors import UserError
from cdt.evals import metrics
from cdt.evals.features import FeatureFn
from cdt.evals.precision_recall import radii
from cdt.evals.reference import Reference, file_reference, source_reference
from cdt.evals.summary import in_blocks, summarise
from cdt.run.images import Generator
from cdt.run.open_run import OpenRun

PyTree = Any


def make_evaluation(
    run: OpenRun, generator: Generator, train: Source
) -> Callable[[PyTree], dict[str, float]]:
    """Return evaluation(params) -> {metric: value} against the training images, or against
    `evaluate.reference`, for use while a run trains. All processes generate, process 0 measures;
    the others get no metric.

    Args:
      run: the run.
      generator: makes its samples.
      train: the training data.

    Raises:
      UserError: the feature network's weights or the reference cannot be used, or the data are
        latents and no reference is given.
    """
    config, n = run.config, run.config.evaluate.num
    check_reference(config)
    feature_fn = from_config.feature_space(config)
    if jax.process_index() > 0:

        def takes_part(params: PyTree) -> dict[str, float]:
            generator.images(params, n)
            return {}

        return takes_part
    if config.evaluate.reference:
        reference = file_reference(config.evaluate.reference, feature_fn)
    else:
        reference = reference_of(config, run.path, train, feature_fn)
    known = reference.summary.features
    reference_radii = None if known is None else radii(known)

    def evaluation(params: PyTree) -> dict[str, float]:
        images = generator.images(params, n)
        assert images is not None  # this is process 0
        samples = summarise(in_blocks(images), feature_fn)
        return metrics.scores(samples) | metrics.compare(samples, reference, reference_radii)

    return evaluation


def check_reference(config: ConfigDict) -> None:
    """Raise UserError if samples are to be compared with a data set that holds no images."""
    if config.data.name == "latents" and not config.evaluate.reference:
        raise UserError(
            "config.evaluate.reference is empty, but config.data holds latents and no images; give "
            "an npz of statistics or images, or a folder of images."
        )


def reference_of(
    config: ConfigDict, workdir: epath.Path, source: Source, feature_fn: FeatureFn
) -> Reference:
    """The reference that a data set makes, kept in `evaluate.reference_cache` or the workdir."""
    cache = epath.Path(config.evaluate.reference_cache or workdir / "references")
    readable = source._replace(images=from_config.examples(config, source).images)
    return source_reference(readable, feature_fn, cache)


def scalars(config: ConfigDict, values: dict[str, dict[str, float]]) -> dict[str, float]:
    """{average: {metric: value}} as scalars of a log: evaluation_<features>/<metric>/<average>."""
    return {
        f"evaluation_{config.evaluate.features}/{metric}/ema_{average}": value
        for average, found in values.items()
        for metric, value in found.items()
    }
