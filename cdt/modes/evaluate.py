"""--mode=evaluate: the distance of samples to a reference, and signs of memorization."""

import json
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np
from etils import epath
from ml_collections import ConfigDict

from cdt import from_config
from cdt.devices.agreement import errors_of_all
from cdt.errors import EXIT_FINISHED, user_errors
from cdt.evals import metrics
from cdt.evals.images import read_images
from cdt.evals.neighbours import mean_nearest_distance
from cdt.evals.reference import file_reference
from cdt.files import atomic
from cdt.monitoring import console
from cdt.monitoring.writers import Writer
from cdt.run.evaluation import features_of, reference_of, scalars
from cdt.run.images import describe_samples, make_generator
from cdt.run.open_run import open_run
from cdt.run.training_run import describe_data
from cdt.run.weights import load_params


def evaluate(config: ConfigDict, workdir: str) -> int:
    """Evaluate samples, print a table, write it in the workdir; return the exit code.

    The samples are those of the newest checkpoint, or `evaluate.samples`. The results are in
    `evaluations/step_<step>_<features>.json` or `evaluations/samples_<features>.json`.

    Without `evaluate.reference`, samples are compared with the training and the held-out images,
    and the distance to the nearest training image is measured for samples and held-out images.
    Samples that are much closer than held-out images are copies.

    All processes generate; process 0 computes the metrics.

    Raises:
      UserError: there is no checkpoint, or no samples, weights or reference that can be used.
    """
    path, c = epath.Path(workdir), config.evaluate
    with errors_of_all(), user_errors():
        from_config.check_config(config, "evaluate")
        # Open everything that can be missing first: features and samples take minutes.
        make_images, results = _given(config) if c.samples else _sampling(config, path)
        feature_fn = from_config.feature_space(config)
        console.info(_plan(config, results["n"]))
        if jax.process_index() > 0:
            references = {}
        elif c.reference:
            with console.phase(f"reading the reference {c.reference}"):
                references = {"reference": file_reference(c.reference, feature_fn)}
        else:
            with console.phase("reading data") as reading:
                sources = from_config.data(config)
                reading.result = describe_data(*sources)
            references = {
                split: reference_of(config, path, source, feature_fn)
                for split, source in zip(("train", "test"), sources, strict=True)
            }
    images = make_images()
    if images is None or jax.process_index() > 0:
        return EXIT_FINISHED
    with user_errors():
        samples = features_of(images, feature_fn)
        values = metrics.scores(samples)
        results["features"] = c.features
        for split, reference in references.items():
            n, key = reference.summary.statistics.n, reference.hash[:16]
            results[f"reference_{split}"] = {"source": reference.name, "n": n, "hash": key}
            with console.phase(f"computing metrics against {reference.name}"):
                found = metrics.compare(samples, reference)
            values |= {f"{metric}_{split}": value for metric, value in found.items()}
    if not c.reference:
        made = samples.features
        train, test = (references[split].summary.features for split in ("train", "test"))
        assert made is not None and train is not None and test is not None  # all were images
        with console.phase("computing distances to the nearest training images"):
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


def _plan(config: ConfigDict, n: int) -> str:
    """Return one line about what will be measured, and against what."""
    c = config.evaluate
    samples = f"{n:,} images from {c.samples}" if c.samples else f"{n:,} generated images"
    reference = c.reference or "the training and the held-out images"
    return f"evaluation: {samples} against {reference}, features {c.features}"


def write_scalars(
    config: ConfigDict, path: epath.Path, step: int, values: dict[str, dict[str, float]]
) -> None:
    """Log {EMA: {metric: value}} in the run's metrics."""
    writer = Writer(path, tensorboard=config.log.tensorboard)
    writer.scalars(step, scalars(config, values))
    writer.start_tensorboard()
    writer.close()


def _given(config: ConfigDict) -> tuple[Callable[[], np.ndarray | None], dict[str, Any]]:
    """Return (images() -> the images of `evaluate.samples`, their description)."""
    images = read_images(config.evaluate.samples)
    return lambda: images, {"samples": config.evaluate.samples, "n": len(images)}


def _sampling(
    config: ConfigDict, path: epath.Path
) -> tuple[Callable[[], np.ndarray | None], dict[str, Any]]:
    """Return (images() -> uint8 images of the newest checkpoint, their description)."""
    run = open_run(config, path)
    with errors_of_all(), user_errors():
        generator = make_generator(run)
    step, params = load_params(run)
    n = config.evaluate.num
    return lambda: generator.images(params, n), describe_samples(config, step, n)


def table(results: Mapping[str, Any]) -> str:
    """Return the results as aligned lines of text."""
    rows = []
    for name, value in results.items():
        if isinstance(value, dict):
            value = f"{value['source']}, n {value['n'] or 'unknown'}, hash {value['hash']}"
        elif isinstance(value, float):
            value = f"{value:.4g}"
        rows.append((name.replace("_", " "), str(value)))
    width = max(len(name) for name, _ in rows)
    return "\n".join(f"{name:<{width}}  {value}" for name, value in rows)
