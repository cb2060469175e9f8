"""--mode=train: the one training loop. It reads from top to bottom."""

import logging
import shlex
import sys
import time
from collections import deque
from contextlib import closing
from typing import Any

import jax
import numpy as np
import optax
from clu import parameter_overview
from etils import epath
from ml_collections import ConfigDict

from cdt import from_config
from cdt.config import flatten
from cdt.data.pipeline import Prefetcher, batch_indices, make_batch
from cdt.data.sources import Source
from cdt.devices import sharding
from cdt.devices.agreement import errors_of_all
from cdt.devices.compilation import compile_together
from cdt.devices.memory import describe, device_memory, planned_memory
from cdt.devices.processes import Stop
from cdt.errors import EXIT_BAD_NUMBERS, EXIT_FINISHED, EXIT_STOPPED, UserError, user_errors
from cdt.files import atomic
from cdt.files.plain_json import to_json
from cdt.models.conditioning import with_classes
from cdt.modes.evaluate import make_evaluation, scalars
from cdt.modes.sample import generate, initial_params, put_together
from cdt.monitoring import plots
from cdt.monitoring.goodput import Goodput
from cdt.monitoring.history import convergence
from cdt.monitoring.progress import Progress
from cdt.monitoring.writers import Writer, read_history
from cdt.training.state import from_items, starting_from, to_items
from cdt.training.step import several_steps
from cdt.training.validation import make_validation
from cdt.workdir.checkpoint import Checkpointer, NotSaved
from cdt.workdir.record import check_identity, record_config

# Steps that may be in flight. The loop waits for the oldest of them, never for the newest: the
# device stays busy, and a signal is answered within this many steps.
_IN_FLIGHT = 4

PyTree = Any


def fetch(tree: PyTree) -> PyTree:
    """The one door through which the loop brings arrays from the devices to the host.

    Of several processes each can fetch what its devices hold, so what is replicated.
    """
    return jax.device_get(tree)


def train(config: ConfigDict, workdir: str) -> int:
    """Trains, or goes on training, the run in `workdir`; returns the exit code.

    Leaves there: checkpoints/, metrics.jsonl, TensorBoard events, samples/, convergence.png and
    convergence.json.

    Raises:
      UserError: something in the config, the data or the workdir is wrong; before compilation.
    """
    # Until there are steps to save, a signal ends the process at once.
    with Stop(at_once=True) as stop:
        return _train(config, epath.Path(workdir), stop)


def _train(config: ConfigDict, path: epath.Path, stop: Stop) -> int:
    goodput = Goodput()

    # --- Data, model, step: everything that can be wrong is found here -----------------------
    with errors_of_all(), user_errors():
        mesh = from_config.mesh(config)
        train_source, test_source = from_config.data(config)
        num_examples = train_source.size
        model = from_config.model(config, mesh)
        check_identity(path, config)
    # The processes read checkpoints together, so what can be wrong with one of them alone is known.
    with errors_of_all(), user_errors():
        checkpoints = Checkpointer(
            path / "checkpoints",
            keep=config.checkpoint.keep,
            keep_every=from_config.keep_every(config, num_examples),
        )
        saved = checkpoints.read_meta()
        if saved and "open_all_at" not in saved:
            raise UserError(
                f"The workdir {path} holds imported weights and no run; give another --workdir, "
                f"and --config.init_from={path} to start from them."
            )
        open_all_at = (
            saved["open_all_at"] if saved else from_config.open_all_at(config, num_examples)
        )
        parts = from_config.training(config, model, mesh.size, num_examples, open_all_at)
        sample = from_config.sampler(config, model)
        grid_size = min(config.sample.num, 100)
        condition = from_config.sample_condition(config, model)
        ema_name = from_config.ema_name(config)
        evaluated = from_config.evaluated_emas(config)
        every = {
            name: from_config.steps(config, f"{name}.every", num_examples)
            for name in ("log", "validation", "sample", "checkpoint")
        }
        every["evaluate"] = from_config.steps(config, "evaluate.every", num_examples, least=0)
        total_steps = from_config.steps(config, "train.duration", num_examples)
        at_once = from_config.steps_per_dispatch(config, every, total_steps)
        stops_where_unsaved = from_config.stops_where_unsaved(config)
        examples = from_config.examples(config, train_source)
        batch_at = make_batch(
            train_source,
            examples=examples,
            seed=config.seed,
            batch_size=config.train.batch_size,
            flip=config.data.flip,
            rows=sharding.local_rows(mesh, config.train.batch_size),
        )
        key = jax.random.key(config.seed)
        shapes = jax.eval_shape(parts.init, key)
        shardings = sharding.state_sharding(mesh, shapes, config.mesh.min_shard_size)
        weights = None
        if config.init_from and not saved:
            weights = initial_params(config, mesh, model)
        if jax.process_index() == 0:
            record_config(path, config)
        evaluation = None
        if every["evaluate"]:
            evaluation = make_evaluation(config, path, mesh, sample, condition, train_source)

    # --- State: the newest good checkpoint, if there is one ------------------------------------
    abstract_state = sharding.abstract(shapes, shardings)
    restored = checkpoints.restore_latest(to_items(abstract_state))
    start = 0
    if restored is not None:
        start, items, _ = restored
        if start >= total_steps:
            print(f"finished already: {start} of {total_steps} steps are done; see {path}")
            return EXIT_FINISHED
        print(f"resuming at step {start} of {total_steps}")
        if start % at_once:
            raise UserError(
                f"config.train.steps_per_dispatch is {at_once}, which does not divide step {start} "
                f"of the newest checkpoint in {path}; give 1 or another divisor of it."
            )

    # --- Programs: each compiled once, ahead of time, side by side ----------------------------
    replicated = sharding.replicated(mesh)
    abstract_batch = sharding.abstract_batch(mesh, batch_at(start), config.train.batch_size)
    abstract_batches = [abstract_batch] * at_once
    validation_batch = from_config.validation_batch(config, test_source, mesh)
    validate = make_validation(
        from_config.example_loss(model), parts.validation_edges, config.seed, model.to_x0
    )
    programs = [
        jax.jit(
            several_steps(parts.step), donate_argnums=0, out_shardings=(shardings, replicated)
        ).lower(abstract_state, abstract_batches),
        jax.jit(validate, out_shardings=replicated).lower(abstract_state.params, validation_batch),
    ]
    if restored is None:
        programs.append(jax.jit(parts.init, out_shardings=shardings).lower(key))
    with goodput.of("compile"):
        steps, validate, *init = compile_together(programs)
    if planned := planned_memory(steps):
        print(describe(planned, device_memory()))
    param_norm = jax.jit(optax.tree.norm, out_shardings=replicated)

    if restored is None:
        state = init[0](key)
        if weights is not None:
            state, weights = starting_from(state, with_classes(state.params, weights)), None
            print(f"starting from the weights of {config.init_from}")
        print(parameter_overview.get_parameter_overview(shapes.params, include_stats=False))
    else:
        state = from_items(items)

    # --- The loop -----------------------------------------------------------------------------
    writer = Writer(path, tensorboard=config.log.tensorboard)
    progress = Progress(total_steps, start, active=jax.process_index() == 0)
    batches = Prefetcher(batch_at, start)
    in_flight: deque[jax.Array] = deque()
    exit_code = EXIT_FINISHED

    def finish_saving() -> None:
        try:
            checkpoints.wait()
        except NotSaved as error:
            _go_on(error, stops_where_unsaved)

    def save(done: int, required: bool) -> None:
        meta = {"config": flatten(config), "open_all_at": open_all_at}
        finish_saving()  # the one before this
        try:
            checkpoints.save(done, to_items(state), meta)
        except NotSaved as error:
            _go_on(error, stops_where_unsaved or required)

    def finish_steps() -> None:
        """Waits for what is in flight, which is a cost of the steps and not of what comes next."""
        with goodput.of("step"):
            while in_flight:
                in_flight.popleft().block_until_ready()

    def average(name: str, done: int) -> PyTree:
        """The parameters that `from_config.ema_name` names."""
        if name == "raw":
            return state.params
        if (std := from_config.posthoc_std(name)) is None:
            return state.ema[name]
        finish_saving()
        return put_together(checkpoints, state.ema, config.ema.power_stds, std, done)

    def run_validation(done: int, initial: np.ndarray | None) -> np.ndarray:
        loss = fetch(validate(state.params, validation_batch))
        initial = loss if initial is None else initial
        writer.scalars(
            done,
            {"validation_loss": float(loss.mean())}
            | _per_cluster("validation_loss", loss)
            | _per_cluster("convergence", 1.0 - loss / initial),
        )
        return initial

    # Closed in reverse order, after an exception too: what was logged and saved is written out.
    with (
        closing(checkpoints),
        closing(writer),
        closing(progress),
        closing(batches),
    ):
        stop.at_once = False
        writer.resumed(start)  # takes back what a run that was killed logged beyond this step
        if start == 0:
            with goodput.of("evaluation"):
                initial = run_validation(0, None)
            state = state.replace(
                clusters=state.clusters._replace(
                    initial_loss=sharding.on_every_device(mesh, initial)
                )
            )
        else:
            initial = fetch(state.clusters.initial_loss)
        window_start, window_began, waited = start, time.perf_counter(), 0.0

        for done in range(start + at_once, total_steps + 1, at_once):
            with goodput.of("data"):
                several = [
                    sharding.global_batch(mesh, next(batches), config.train.batch_size)
                    for _ in range(at_once)
                ]
            with goodput.of("step"):
                state, metrics = steps(state, several)
                in_flight.append(metrics["loss"])
                if len(in_flight) > _IN_FLIGHT:
                    in_flight.popleft().block_until_ready()
            if done == start + at_once:
                finish_steps()
                # Its import keeps a core busy for 20 seconds, so it must not precede this.
                writer.start_tensorboard()
            progress.update(done)
            last = done == total_steps

            if done % every["log"] == 0 or last:
                finish_steps()
                with goodput.of("logging"):
                    values = fetch(metrics | {"param_norm": param_norm(state.params)})
                    recent_bad = values.pop("recent_bad_steps")
                    _tell_bad_steps(config, recent_bad[recent_bad >= window_start], train_source)
                    seconds = time.perf_counter() - window_began
                    rate = config.train.batch_size * (done - window_start) / seconds
                    values["learning_rate"] = parts.schedule(done - 1 - values["bad_steps"])
                    values["images_per_second"] = rate
                    values["data_wait_share"] = (batches.wait_seconds - waited) / seconds
                    values["bad_examples"] = examples.num_bad
                    writer.scalars(done, _flat(values) | _goodput(goodput))
                    progress.update(
                        done,
                        stage=int(values["stage"]) if "stage" in values else None,
                        num_stages=parts.num_stages,
                        loss=float(values["loss"]),
                        images_per_second=rate,
                    )
                if values["bad_steps_in_a_row"] >= config.train.max_bad_steps:
                    exit_code = EXIT_BAD_NUMBERS
            if done % every["validation"] == 0 or last:
                finish_steps()
                with goodput.of("evaluation"):
                    run_validation(done, initial)
            if done % every["sample"] == 0 or last:
                finish_steps()
                with goodput.of("evaluation"):
                    params = average(ema_name, done)
                    images = generate(
                        sample, mesh, params, condition, grid_size, config.sample.batch_size
                    )
                    if images is not None:
                        _write_grid(path, writer, done, images, model.num_classes)
            if evaluation and (done % every["evaluate"] == 0 or last):
                finish_steps()
                with goodput.of("evaluation"):
                    values = {name: evaluation(average(name, done)) for name in evaluated}
                    writer.scalars(done, scalars(config, values))
            if done % every["log"] == 0:
                window_start, window_began = done, time.perf_counter()
                waited = batches.wait_seconds

            # Counted in dispatches: where processes stop together, it is after the next one.
            if stop.after(done // at_once) and not last:
                exit_code = EXIT_STOPPED
            if exit_code or last or done % every["checkpoint"] == 0:
                finish_steps()
                with goodput.of("checkpoint"):
                    save(done, required=bool(exit_code) or last)
            if exit_code:
                break
        with goodput.of("checkpoint"):
            checkpoints.wait()
    print(f"where the time went: {goodput.table()}")

    # --- The end ------------------------------------------------------------------------------
    if exit_code == EXIT_BAD_NUMBERS:
        logging.error(
            f"The loss or its gradient was not finite for {config.train.max_bad_steps} steps in a "
            f"row; the last good state is saved at step {done}. Lower config.optim.lr, clip with "
            "config.optim.clip_norm, or use float32. To repeat the last of these steps: "
            f"python -m cdt.main {shlex.join(sys.argv[1:])} --mode=replay "
            f"--config.replay.step={recent_bad[0] + 1}"
        )
    elif exit_code == EXIT_STOPPED:
        print(f"stopped by a signal and saved at step {done}; run the same command to go on")
    elif jax.process_index() == 0:
        try:
            _report(path)
        except (OSError, ValueError) as error:  # a ValueError where metrics could not be written
            logging.warning(
                f"The run has finished and is saved, but its report cannot be written to {path} "
                f"({error}); metrics.jsonl holds what numbers it has."
            )
    return exit_code


def _go_on(error: NotSaved, stops: bool) -> None:
    if stops:
        raise error
    if jax.process_index() == 0:
        logging.warning(f"{error.what}; training goes on (config.checkpoint.on_failure).")


def _tell_bad_steps(config: ConfigDict, steps: np.ndarray, source: Source) -> None:
    """Logs bad steps, given as the steps done before each, with the examples of their batches."""
    if jax.process_index() > 0:
        return
    indices = batch_indices(source.size, config.seed, config.train.batch_size)
    for step in sorted(steps.tolist()):
        logging.warning(
            f"Step {step + 1} has changed nothing, as its loss or gradient was not finite. Its "
            f"batch holds these examples of {source.name}: {', '.join(map(str, indices(step)))}."
        )


def _goodput(goodput: Goodput) -> dict[str, float]:
    """Shares of this process's time so far."""
    seconds = goodput.seconds
    total = sum(seconds.values())
    return {f"goodput/{kind}": spent / total for kind, spent in seconds.items()}


def _per_cluster(name: str, values: np.ndarray) -> dict[str, float]:
    return {f"{name}/cluster_{i + 1:02d}": float(value) for i, value in enumerate(values)}


def _flat(values: dict[str, Any]) -> dict[str, float]:
    """Scalars by name; the vectors with one name a cluster or a stage."""
    flat = _per_cluster("loss", values.pop("cluster_loss"))
    lengths = values.pop("stage_lengths", ())
    flat |= {f"stage_length/stage_{i + 1:02d}": float(n) for i, n in enumerate(lengths)}
    return flat | {name: float(value) for name, value in values.items()}


def _write_grid(
    path: epath.Path, writer: Writer, step: int, images: np.ndarray, num_classes: int
) -> None:
    grid = plots.image_grid(images, columns=min(num_classes, 10) or None)
    target = path / "samples" / f"step_{step:08d}.png"
    try:
        target.parent.mkdir(exist_ok=True)  # not `path`, which may be of a mount that was lost
        plots.save_png(target, grid)
    except OSError as error:
        logging.warning(f"{target} cannot be written ({error}); training goes on.")
    writer.images(step, {"samples": grid})


def _report(path: epath.Path) -> None:
    """convergence.png and convergence.json from the whole history, resumed parts included."""
    found = convergence(read_history(path))
    if found.stage > 0:
        lengths = found.stage_lengths.tolist()
        print(f"stage {found.stage} of {len(lengths)} reached; steps in each: {lengths}")
    starts = found.stage_starts.tolist()
    plots.convergence_plot(path / "convergence.png", found.steps, found.losses, starts)
    results = {
        "steps": found.steps,
        "validation_loss": found.losses,
        "normalised": found.normalised,
        "stage_starts": found.stage_starts,
    }
    atomic.write(path / "convergence.json", to_json(results))
    print(f"finished; samples, convergence.png and metrics are in {path}")
