"""--mode=difficulty: measure how hard each noise level is, and fit a curriculum to the data."""

import json
import logging
from collections.abc import Callable
from contextlib import closing
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath
from ml_collections import ConfigDict

from cdt import from_config
from cdt.data.pipeline import make_batch
from cdt.data.sources import Source
from cdt.devices import sharding
from cdt.devices.compilation import compile_together
from cdt.devices.signals import StopRequest
from cdt.difficulty import convergence, figures, verdict
from cdt.difficulty.relative_entropy import RelativeEntropy, level_pairs, relative_entropy
from cdt.diffusion.pixels import ToX0
from cdt.errors import EXIT_FINISHED, EXIT_STOPPED, UserError, user_errors
from cdt.files import atomic
from cdt.files.plain_json import to_json
from cdt.monitoring import console, plots
from cdt.monitoring.progress import Progress
from cdt.run.open_run import OpenRun, open_run
from cdt.run.training_run import describe_data
from cdt.training.step import Batch
from cdt.workdir.record import record_config

_FRACTIONS = {"50 %": 0.5, "90 %": 0.9, "95 %": 0.95}


def difficulty(config: ConfigDict, workdir: str) -> int:
    """Measure difficulty by convergence and by relative entropy; return the exit code.

    Writes in `difficulty/` of the workdir: verdict.txt; curriculum.json for
    `curriculum.edges_file`; relative_entropy and convergence as .json, .csv and .png;
    steps_to.png; curves/ with one file per seed and cluster. The same command again trains only
    the clusters without a file.

    Raises:
      UserError: the config or the data is wrong, or the workdir has a study with other settings.
    """
    c = config.difficulty
    from_config.check_config(config, "difficulty")
    run = open_run(config, workdir)
    with user_errors():
        with console.phase("reading data") as reading:
            train, test = from_config.data(config)
            reading.result = describe_data(train, test)
        if config.model.num_classes:
            config.data.class_names = train.classes or ()
        # Side by side, each device has its own model and the whole batch.
        model = from_config.model(config) if c.side_by_side else run.model
        parts = from_config.difficulty(config, model, run.mesh.size, train.size)
        steps = from_config.steps(config, "difficulty.duration", train.size)
        validation_steps = np.unique(np.linspace(0, steps, c.validations + 1).round().astype(int))
        record_config(run.path, config)
        folder = run.path / "difficulty"
        _check_settings(folder, validation_steps.tolist(), parts.edges.tolist())

    clusters = len(parts.edges) - 1
    console.info(
        f"difficulty: relative entropy of {c.num_pairs} pairs of noise levels, then convergence of "
        f"{clusters * c.seeds} models of {steps:,} steps (clusters: {clusters}, seeds: {c.seeds})"
    )
    name = f"{train.name}, {parts.process.name}"
    with console.phase("computing relative entropy"):
        entropy = _entropy(config, train, parts, model.to_x0)
        _write_entropy(folder, name, entropy)

    curves = _train_clusters(run, parts, train, test, validation_steps, folder / "curves")
    if curves is None:
        print("stopped by a signal; run the same command again to train the remaining clusters")
        return EXIT_STOPPED
    losses = np.array([[curve["losses"] for curve in seed] for seed in curves])  # [S, N, k]
    steps_to = _write_convergence(
        folder, name, parts.edges, validation_steps, losses.transpose(0, 2, 1)
    )
    _write_curriculum(folder, parts, entropy, steps_to)

    text = verdict.study_verdict(name, convergence.rank_correlation(steps_to), entropy)
    atomic.write(folder / "verdict.txt", text + "\n")
    print(text)
    print(
        f"A curriculum fitted to this data: --config.curriculum.edges_file={folder}/curriculum.json"
    )
    return EXIT_FINISHED


def _write_entropy(folder: epath.Path, name: str, entropy: RelativeEntropy) -> None:
    atomic.write(folder / "relative_entropy.json", to_json(entropy._asdict()))
    atomic.write(folder / "relative_entropy.csv", verdict.entropy_csv(entropy))
    figures.relative_entropy_plot(folder / "relative_entropy.png", {name: entropy})


def _write_convergence(
    folder: epath.Path, name: str, edges: np.ndarray, steps: np.ndarray, losses: np.ndarray
) -> np.ndarray:
    """Write the convergence of losses f64[S, k, N]; return the steps to 90 %, f64[S, N]."""
    steps_to = {
        label: np.stack([convergence.steps_to(steps, seed, fraction) for seed in losses])
        for label, fraction in _FRACTIONS.items()
    }
    results = {
        "edges": edges,
        "steps": steps,
        "losses": losses,
        "steps_to": steps_to,
        "rank_correlation": convergence.rank_correlation(steps_to["90 %"]),
    }
    atomic.write(folder / "convergence.json", to_json(results))
    columns = {f"steps_to_{label[:2]}": table for label, table in steps_to.items()}
    atomic.write(folder / "convergence.csv", verdict.convergence_csv(edges, columns))
    plots.convergence_plot(folder / "convergence.png", steps, losses.mean(axis=0))
    figures.steps_to_plot(folder / "steps_to.png", {name: steps_to})
    return steps_to["90 %"]


def _write_curriculum(
    folder: epath.Path,
    parts: from_config.Difficulty,
    entropy: RelativeEntropy,
    steps_to: np.ndarray,
) -> None:
    """Write the curriculum fitted to relative entropy and to the steps to 90 %.

    Args:
      steps_to: f64[S, N]; NaN where unknown.
    """
    known = np.isfinite(steps_to).any()
    fitted = verdict.fitted_curriculum(
        entropy,
        len(parts.edges) - 1,
        parts.process.num_levels,
        parts.edges if known else None,
        np.nanmean(steps_to, axis=0) if known else None,
    )
    atomic.write(folder / "curriculum.json", to_json(fitted))


def _check_settings(folder: epath.Path, validation_steps: list[int], edges: list[float]) -> None:
    """Raise UserError if the folder has a study with other settings."""
    mine = {"validation_steps": validation_steps, "edges": edges}
    file = folder / "settings.json"
    if file.exists():
        if json.loads(file.read_text()) != mine:
            raise UserError(
                f"{folder} has a study with another duration, validations or clusters; use "
                "another --workdir, or remove this folder."
            )
        return
    (folder / "curves").mkdir(parents=True, exist_ok=True)
    atomic.write(file, json.dumps(mine))


def _entropy(
    config: ConfigDict, train: Source, parts: from_config.Difficulty, to_x0: ToX0
) -> RelativeEntropy:
    """Return the relative entropy of the training images, at most `difficulty.max_images` of them,
    evenly spaced."""
    c = config.difficulty
    every = max(1, -(-train.size // c.max_images))
    images = from_config.examples(config, train).images(np.arange(0, train.size, every))
    x0 = np.asarray(to_x0(jnp.asarray(images), jax.random.key(config.seed)))
    pairs = level_pairs(parts.process, c.num_pairs)
    return relative_entropy(x0, pairs, num_draws=c.num_draws, seed=config.seed)


def _train_clusters(
    run: OpenRun,
    parts: from_config.Difficulty,
    train: Source,
    test: Source,
    validation_steps: np.ndarray,
    folder: epath.Path,
) -> list[list[dict[str, Any]]] | None:
    """Return the curves by seed and cluster; train those without a file. None if stopped."""
    config = run.config
    at_once = run.mesh.size if config.difficulty.side_by_side else None
    num_clusters = len(parts.edges) - 1
    files = {
        (seed, cluster): folder / f"seed_{seed}_cluster_{cluster + 1:02d}.json"
        for seed in range(config.difficulty.seeds)
        for cluster in range(num_clusters)
    }
    left = {
        seed: [k for k in range(num_clusters) if not files[seed, k].exists()]
        for seed in range(config.difficulty.seeds)
    }
    if any(left.values()):
        with console.phase("compiling the train step and the validation"):
            programs, batch_at, validation_batch = _compiled(run, parts, train, test)
        groups = sum(-(-len(clusters) // (at_once or 1)) for clusters in left.values())
        total = groups * int(validation_steps[-1])
        progress = Progress(total, 0)
        steps_done = 0

        def counted_batch(step: int) -> Batch:
            nonlocal steps_done
            steps_done += 1
            progress.update(steps_done)
            return batch_at(step)

        with StopRequest() as stop, closing(progress):
            for seed, clusters in left.items():
                for curve in convergence.train_each_cluster(
                    programs, counted_batch, validation_batch,
                    jax.random.key(config.seed + seed), clusters, validation_steps,
                    stop=lambda: stop.requested, at_once=at_once,
                ):  # fmt: skip
                    file = files[seed, curve.cluster]
                    atomic.write(file, to_json(curve._asdict()))
                    if curve.bad_steps:
                        logging.warning(f"{file}: {curve.bad_steps} steps had NaN or inf")
                if stop.requested:
                    return None
    return [
        [json.loads(files[seed, k].read_text()) for k in range(num_clusters)]
        for seed in range(config.difficulty.seeds)
    ]


def _compiled(
    run: OpenRun, parts: from_config.Difficulty, train: Source, test: Source
) -> tuple[convergence.ClusterPrograms, Callable[[int], Batch], Batch]:
    """Return (the programs compiled for the mesh, step -> global batch, the validation batch).

    Side by side, every device has whole models and the whole batch; otherwise both are split as in
    training.
    """
    config, mesh = run.config, run.mesh
    side_by_side = config.difficulty.side_by_side
    programs = convergence.side_by_side(parts.programs) if side_by_side else parts.programs
    key = jax.random.key(config.seed)
    clusters = jnp.zeros(mesh.size, jnp.int32) if side_by_side else jnp.int32(0)
    shapes = jax.eval_shape(programs.init, key, clusters)
    replicated = sharding.replicated(mesh)
    if side_by_side:
        shardings = jax.tree.map(lambda _: sharding.batch_sharding(mesh), shapes)
        batches = replicated
    else:
        with user_errors():
            shardings = sharding.state_sharding(mesh, shapes, config.mesh.min_shard_size)
        batches = sharding.batch_sharding(mesh)
    host_batch = make_batch(
        train,
        examples=from_config.examples(config, train),
        seed=config.seed,
        batch_size=config.train.batch_size,
        flip=config.data.flip,
    )

    def batch_at(step: int) -> Batch:
        return jax.device_put(dict(host_batch(step)), batches)

    state = sharding.abstract(shapes, shardings)
    validation_batch = jax.device_put(from_config.validation_batch(config, test, mesh), batches)
    init, step, validate = compile_together(
        [
            jax.jit(programs.init, out_shardings=shardings).lower(key, clusters),
            jax.jit(programs.step, donate_argnums=0, out_shardings=(shardings, replicated)).lower(
                state, batch_at(0)
            ),
            jax.jit(programs.validate, out_shardings=replicated).lower(state, validation_batch),
        ]
    )
    return convergence.ClusterPrograms(init, step, validate), batch_at, validation_batch
