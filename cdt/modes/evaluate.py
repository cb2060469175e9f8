"""--mode=evaluate: the distance of samples to a reference, and signs of memorising."""

import json
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np
from etils import epath
from ml_collections import ConfigDict

from cdt import from_config
from cdt.data.sources import Source
from cdt.devices.agreement import errors_of_all
from cdt.diffusion.denoiser import Condition
from cdt.errors import EXIT_FINISHED, UserError, user_errors
from cdt.evals import metrics
from cdt.evals.features import FeatureFn
from cdt.evals.images import read_images
from cdt.evals.neighbours import mean_nearest_distance
from cdt.evals.precision_recall import radii
from cdt.evals.reference import Reference, file_reference, source_reference
from cdt.evals.summary import in_blocks, summarise
from cdt.files import atomic
from cdt.modes.sample import describe, generate, load_params
from cdt.monitoring.writers import Writer

PyTree = Any


def evaluate(config: ConfigDict, workdir: str) -> int:
    """Evaluates the newest checkpoint's samples, or those of `evaluate.samples`; prints a table and
    writes `evaluations/<what>_<features>.json` in the workdir; returns the exit code.

    Without `evaluate.reference` samples are compared with the training and with the held-out
    images. The nearest-neighbour distances are then those of samples and of held-out images to the
    training images: samples that lie much closer than held-out images do are copies.

    All processes generate; process 0 measures.
    """
    path, c = epath.Path(workdir), config.evaluate
    with errors_of_all(), user_errors():
        _check_reference(config)
        # What can be missing is looked for first: features and samples take minutes.
        make_images, results = _given(config) if c.samples else _sampling(config, path)
        feature_fn = from_config.feature_space(config)
        if jax.process_index() > 0:
            references = {}
        elif c.reference:
            references = {"reference": file_reference(c.reference, feature_fn)}
        else:
            references = {
                split: _source_reference(config, path, source, feature_fn)
                for split, source in zip(("train", "test"), from_config.data(config), strict=True)
            }
    images = make_images()
    if images is None or jax.process_index() > 0:
        return EXIT_FINISHED
    with user_errors():
        samples = summarise(in_blocks(images), feature_fn)
        values = metrics.scores(samples)
        results["features"] = c.features
        for split, reference in references.items():
            n, key = reference.summary.statistics.n, reference.hash[:16]
            results[f"reference_{split}"] = {"source": reference.name, "n": n, "hash": key}
            found = metrics.compare(samples, reference)
            values |= {f"{metric}_{split}": value for metric, value in found.items()}
    if not c.reference:
        made = samples.features
        train, test = (references[split].summary.features for split in ("train", "test"))
        assert made is not None and train is not None and test is not None  # all were images
        values["nearest_train_of_samples"] = mean_nearest_distance(made, train)
        values["nearest_train_of_test"] = mean_nearest_distance(test, train)
    results |= values

    print(table(results))
    name = f"step_{results['step']}" if "step" in results else "samples"
    target = path / "evaluations" / f"{name}_{c.features}.json"
    target.parent.mkdir(parents=True, exist_ok=True)
    atomic.write(target, json.dumps(results, indent=1))
    print(f"written to {target}")
    if "step" in results:
        write_scalars(config, path, results["step"], {results["ema"]: values})
    return EXIT_FINISHED


def make_evaluation(
    config: ConfigDict,
    path: epath.Path,
    mesh: jax.sharding.Mesh,
    sample: Callable[[PyTree, jax.Array, Condition], jax.Array],
    condition: Callable[[np.ndarray], dict[str, np.ndarray]],
    train: Source,
) -> Callable[[PyTree], dict[str, float]]:
    """Returns evaluation(params) -> {metric: value} against the training images, or against
    `evaluate.reference`, for use while a run trains. All processes generate, process 0 measures;
    the others get no metric.

    Args:
      sample: from `from_config.sampler`.
      condition: from `from_config.sample_condition`.
      train: the training data.

    Raises:
      UserError: the feature network's weights or the reference cannot be used, or the data are
        latents and no reference is given.
    """
    c = config.evaluate
    with user_errors():
        _check_reference(config)
        feature_fn = from_config.feature_space(config)

        def images_of(params: PyTree) -> np.ndarray | None:
            return generate(sample, mesh, params, condition, c.num, config.sample.batch_size)

        if jax.process_index() > 0:

            def takes_part(params: PyTree) -> dict[str, float]:
                images_of(params)
                return {}

            return takes_part
        if c.reference:
            reference = file_reference(c.reference, feature_fn)
        else:
            reference = _source_reference(config, path, train, feature_fn)
    known = reference.summary.features
    reference_radii = None if known is None else radii(known)

    def evaluation(params: PyTree) -> dict[str, float]:
        images = images_of(params)
        assert images is not None  # this is process 0
        samples = summarise(in_blocks(images), feature_fn)
        return metrics.scores(samples) | metrics.compare(samples, reference, reference_radii)

    return evaluation


def write_scalars(
    config: ConfigDict, path: epath.Path, step: int, values: dict[str, dict[str, float]]
) -> None:
    """{average: {metric: value}} as scalars of the run."""
    writer = Writer(path, tensorboard=config.log.tensorboard)
    writer.scalars(step, scalars(config, values))
    writer.start_tensorboard()
    writer.close()


def scalars(config: ConfigDict, values: dict[str, dict[str, float]]) -> dict[str, float]:
    """Names of the metrics as the writers know them: evaluation_<features>/<metric>/<average>."""
    return {
        f"evaluation_{config.evaluate.features}/{metric}/ema_{average}": value
        for average, found in values.items()
        for metric, value in found.items()
    }


def _given(config: ConfigDict) -> tuple[Callable[[], np.ndarray | None], dict[str, Any]]:
    """(a function that returns the images of `evaluate.samples`, what they are)."""
    images = read_images(config.evaluate.samples)
    return lambda: images, {"samples": config.evaluate.samples, "n": len(images)}


def _sampling(
    config: ConfigDict, path: epath.Path
) -> tuple[Callable[[], np.ndarray | None], dict[str, Any]]:
    """(a function that makes uint8 images of the newest checkpoint, what they are)."""
    with errors_of_all(), user_errors():
        mesh = from_config.mesh(config)
        model = from_config.model(config, mesh)
        run = from_config.sampler(config, model)
        n = config.evaluate.num
        condition = from_config.sample_condition(config, model)
    with user_errors():
        step, params = load_params(config, path, mesh, model)

    def images() -> np.ndarray | None:
        return generate(run, mesh, params, condition, n, config.sample.batch_size)

    return images, describe(config, step, n)


def _check_reference(config: ConfigDict) -> None:
    """Raises UserError if samples are to be compared with a data set that holds no images."""
    if config.data.name == "latents" and not config.evaluate.reference:
        raise UserError(
            "config.evaluate.reference is empty, but config.data holds latents and no images; give "
            "an npz of statistics or images, or a folder of images."
        )


def _source_reference(
    config: ConfigDict, path: epath.Path, source: Source, feature_fn: FeatureFn
) -> Reference:
    cache = epath.Path(config.evaluate.reference_cache or path / "references")
    readable = source._replace(images=from_config.examples(config, source).images)
    return source_reference(readable, feature_fn, cache)


def table(results: Mapping[str, Any]) -> str:
    """The results as aligned lines of text."""
    rows = []
    for name, value in results.items():
        if isinstance(value, dict):
            value = f"{value['source']}, n {value['n'] or 'unknown'}, hash {value['hash']}"
        elif isinstance(value, float):
            value = f"{value:.4g}"
        rows.append((name.replace("_", " "), str(value)))
    width = max(len(name) for name, _ in rows)
    return "\n".join(f"{name:<{width}}  {value}" for name, value in rows)
