"""--mode=evaluate: Frechet distance to training and held-out images, and signs of memorising."""

import json

import jax
import numpy as np
from etils import epath
from ml_collections import ConfigDict

from cdt import build
from cdt.errors import EXIT_FINISHED, user_errors
from cdt.evals.frechet import frechet_distance, statistics
from cdt.evals.neighbours import mean_nearest_distance
from cdt.evals.reference import features_of, reference_statistics
from cdt.sample import describe, generate, load_params, sample_labels

# Above this many reference images a search through all of them would take longer than sampling.
_MAX_NEIGHBOURS = 10_000


def evaluate(config: ConfigDict, workdir: str) -> int:
    """Samples the newest checkpoint, prints a table and writes
    `evaluations/step_<step>_<features>.json` in the workdir; returns the exit code.

    The nearest-neighbour distances are those of samples and of held-out images to the training
    images (the first 10,000 where there are more): samples that lie much closer than held-out
    images do are copies.
    """
    path = epath.Path(workdir)
    with user_errors():
        mesh = build.mesh(config)
        model = build.model(config)
        train, test = build.data(config)
        feature_fn = build.feature_space(config)
        run = jax.jit(build.sampler(config, model))
        labels = sample_labels(config, np.arange(config.evaluate.num))
        step, params = load_params(config, path, mesh, model)
    samples = feature_fn(generate(run, mesh, params, labels, config.sample.batch_size))

    results = describe(config, step, len(samples)) | {"features": config.evaluate.features}
    own = statistics([samples])
    for name, source in (("train", train), ("test", test)):
        reference, key = reference_statistics(source, feature_fn, path / "references")
        results[f"frechet_{name}"] = frechet_distance(own, reference)
        results[f"reference_{name}"] = {"source": source.name, "n": reference.n, "hash": key[:16]}
    known = _features(train, feature_fn)
    results["nearest_train_of_samples"] = mean_nearest_distance(samples, known)
    results["nearest_train_of_test"] = mean_nearest_distance(_features(test, feature_fn), known)

    print(table(results))
    target = path / "evaluations" / f"step_{step}_{config.evaluate.features}.json"
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(json.dumps(results, indent=1))
    print(f"written to {target}")
    return EXIT_FINISHED


def table(results: dict) -> str:
    """The results as aligned lines of text."""
    rows = []
    for name, value in results.items():
        if isinstance(value, dict):
            value = f"{value['source']}, n {value['n']}, hash {value['hash']}"
        elif isinstance(value, float):
            value = f"{value:.4g}"
        rows.append((name.replace("_", " "), str(value)))
    width = max(len(name) for name, _ in rows)
    return "\n".join(f"{name:<{width}}  {value}" for name, value in rows)


def _features(source, feature_fn) -> np.ndarray:
    blocks, n = [], 0
    for block in features_of(source, feature_fn):
        blocks.append(block)
        n += len(block)
        if n >= _MAX_NEIGHBOURS:
            break
    return np.concatenate(blocks)[:_MAX_NEIGHBOURS]
