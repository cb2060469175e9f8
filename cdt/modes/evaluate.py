"""--mode=evaluate: the distance of samples to a reference, and signs of memorising."""

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
from cdt.evals.summary import in_blocks, summarise
from cdt.files import atomic
from cdt.monitoring.writers import Writer
from cdt.run.evaluation import check_reference, reference_of, scalars
from cdt.run.images import describe_samples, make_generator
from cdt.run.open_run import open_run
from cdt.run.weights import load_params


def evaluate(config: ConfigDict, workdir: str) -> int:
    """Evaluate the newest checkpoint's samples, or those of `evaluate.samples`; print a table and
    write `evaluations/<what>_<features>.json` in the workdir; return the exit code.

    Without `evaluate.reference` samples are compared with the training and with the held-out
    images. The nearest-neighbour distances are then those of samples and of held-out images to the
    training images: samples that lie much closer than held-out images do are copies.

    All processes generate; process 0 measures.

    Raises:
      UserError: there is no checkpoint, or no samples, weights or reference that can be used.
    """
    path, c = epath.Path(workdir), config.evaluate
    with errors_of_all(), user_errors():
        check_reference(config)
        # What can be missing is looked for first: features and samples take minutes.
        make_images, results = _given(config) if c.samples else _sampling(config, path)
        feature_fn = from_config.feature_space(config)
        if jax.process_index() > 0:
            references = {}
        elif c.reference:
            references = {"reference": file_reference(c.reference, feature_fn)}
        else:
            references = {
                split: reference_of(config, path, source, feature_fn)
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


def write_scalars(
    config: ConfigDict, path: epath.Path, step: int, values: dict[str, dict[str, float]]
) -> None:
    """{average: {metric: value}} as scalars of the run."""
    writer = Writer(path, tensorboard=config.log.tensorboard)
    writer.scalars(step, scalars(config, values))
    writer.start_tensorboard()
    writer.close()


def _given(config: ConfigDict) -> tuple[Callable[[], np.ndarray | None], dict[str, Any]]:
    """(a function that returns the images of `evaluate.samples`, what they are)."""
    images = read_images(config.evaluate.samples)
    return lambda: images, {"samples": config.evaluate.samples, "n": len(images)}


def _sampling(
    config: ConfigDict, path: epath.Path
) -> tuple[Callable[[], np.ndarray | None], dict[str, Any]]:
    """(a function that makes uint8 images of the newest checkpoint, what they are)."""
    run = open_run(config, path)
    with errors_of_all(), user_errors():
        generator = make_generator(run)
    step, params = load_params(run)
    n = config.evaluate.num
    return lambda: generator.images(params, n), describe_samples(config, step, n)


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
