"""--mode=train: the training loop.

`set_up` checks everything that can be wrong, `compile_programs` compiles, `run_loop` trains.
"""

import logging
import shlex
import sys
from collections.abc import Callable
from contextlib import closing, nullcontext
from typing import Any, NamedTuple

import jax
import numpy as np
import optax
from clu import parameter_overview
from ml_collections import ConfigDict

from cdt import from_config
from cdt.config import flatten
from cdt.data.pipeline import Prefetcher, batch_indices
from cdt.devices import sharding
from cdt.devices.agreement import errors_of_all
from cdt.devices.compilation import compile_together
from cdt.devices.in_flight import InFlight
from cdt.devices.memory import describe_memory, device_memory, planned_memory
from cdt.devices.processes import Stop
from cdt.errors import EXIT_BAD_NUMBERS, EXIT_FINISHED, EXIT_STOPPED, UserError, user_errors
from cdt.models.conditioning import with_classes
from cdt.monitoring import console
from cdt.monitoring.convergence_report import write_convergence
from cdt.monitoring.goodput import Goodput
from cdt.monitoring.profile import Profile
from cdt.monitoring.run_log import RunLog
from cdt.run.evaluation import make_evaluation, scalars
from cdt.run.images import Generator, make_generator
from cdt.run.open_run import OpenRun, open_run
from cdt.run.training_run import TrainingRun, open_training
from cdt.run.weights import combined_emas, initial_params
from cdt.training.state import TrainState, from_items, to_items, with_params
from cdt.training.step import Batch, several_steps
from cdt.training.validation import make_validation
from cdt.workdir.record import record_config
from cdt.workdir.saver import Saver

# Steps that may be in flight: enough to keep the devices busy, few enough to answer a signal soon.
_IN_FLIGHT = 4

PyTree = Any


def fetch(tree: PyTree) -> PyTree:
    """Return the arrays of a tree on the host. The loop gets device arrays only through this.

    The tree must be replicated, because a process can read only its own devices.
    """
    return jax.device_get(tree)


def train(config: ConfigDict, workdir: str) -> int:
    """Train the run in `workdir`, from its newest checkpoint if it has one; return the exit code.

    Writes checkpoints/, metrics.jsonl, TensorBoard events, samples/, convergence.png and
    convergence.json there.

    Raises:
      UserError: the config, the data or the workdir is wrong; raised before compilation.
    """
    # A signal ends the process at once until there are steps to save.
    with Stop(at_once=True) as stop:
        goodput = Goodput()
        setup = set_up(config, workdir)
        total, path = setup.total_steps, setup.run.path
        if setup.start >= total:
            print(f"finished already: {setup.start} of {total} steps are done; see {path}")
            return EXIT_FINISHED
        if setup.items is not None:
            print(f"resuming at step {setup.start} of {total}")
        with goodput.of("compile"), console.phase("compiling the train step and the validation"):
            programs = compile_programs(setup)
        end = run_loop(setup, programs, goodput, stop)
        print(f"where the time went: {goodput.table()}")
        print_end(setup, end)
        return end.exit_code


# --- Setup: checks everything that can be wrong ---------------------------------------------------


class Setup(NamedTuple):
    """A run that is ready to be compiled."""

    run: OpenRun
    training: TrainingRun
    saver: Saver
    every: dict[str, int]  # section -> steps, see `from_config.intervals`
    total_steps: int
    steps_per_dispatch: int
    profiled: tuple[int, int] | None  # see `from_config.profiled_steps`
    generator: Generator
    shown_ema: str  # the average of the sample grids
    evaluated_emas: tuple[str, ...]
    evaluation: Callable[[PyTree], dict[str, float]] | None
    validation_batch: Batch
    batch_shapes: dict[str, jax.ShapeDtypeStruct]  # of a global batch
    start: int  # steps done
    # At most one of these two; the first step donates their arrays.
    items: dict[str, PyTree] | None  # the state in the newest whole checkpoint
    weights: PyTree | None  # of another run, for a run that starts there


def set_up(config: ConfigDict, workdir: str) -> Setup:
    """Open the run, read its newest checkpoint, and record its config in the workdir.

    Raises:
      UserError: the config, the data or the workdir is wrong; on all processes, if one finds it.
    """
    with errors_of_all():
        from_config.check_config(config, "train")
    run = open_run(config, workdir)
    training = open_training(run)
    num_examples, batch_size = training.train.size, config.train.batch_size
    with errors_of_all(), user_errors():
        generator = make_generator(run)
        every = from_config.intervals(config, num_examples)
        total_steps = from_config.steps(config, "train.duration", num_examples)
        at_once = from_config.steps_per_dispatch(config, every, total_steps)
        profiled = from_config.profiled_steps(config)
        shown_ema = from_config.ema_name(config)
        evaluated_emas = from_config.evaluated_emas(config)
        saver = Saver(
            training.checkpoints,
            {"config": flatten(config), "open_all_at": training.open_all_at},
            stops=from_config.stops_where_unsaved(config),
        )
        # All processes read this together, so it comes before checks that can fail on one alone.
        weights = initial_params(run) if config.init_from and not training.saved else None
        if jax.process_index() == 0:
            record_config(run.path, config)
        evaluation = make_evaluation(run, generator, training.train) if every["evaluate"] else None

    with console.phase("reading the newest checkpoint") if training.saved else nullcontext():
        restored = training.checkpoints.restore_latest(to_items(training.state))
    start, items = restored[:2] if restored else (0, None)
    if start < total_steps and start % at_once:
        raise UserError(
            f"config.train.steps_per_dispatch is {at_once}, which does not divide step {start} of "
            f"the newest checkpoint in {run.path}; give 1 or another divisor of it."
        )
    with errors_of_all(), user_errors():
        validation_batch = from_config.validation_batch(config, training.test, run.mesh)
        batch_shapes = sharding.abstract_batch(run.mesh, training.batch_at(start), batch_size)
    return Setup(
        run=run,
        training=training,
        saver=saver,
        every=every,
        total_steps=total_steps,
        steps_per_dispatch=at_once,
        profiled=profiled,
        generator=generator,
        shown_ema=shown_ema,
        evaluated_emas=evaluated_emas,
        evaluation=evaluation,
        validation_batch=validation_batch,
        batch_shapes=batch_shapes,
        start=start,
        items=items,
        weights=weights,
    )


# --- Programs: each compiled once, ahead of time, in parallel -------------------------------------


class Programs(NamedTuple):
    """The compiled programs of a run."""

    init: Callable[[jax.Array], TrainState] | None  # of a PRNG key; None for a resumed run
    steps: Callable[[TrainState, list[Batch]], tuple[TrainState, dict[str, jax.Array]]]
    validate: Callable[[PyTree, Batch], jax.Array]  # (params, batch) -> loss f32[M]
    param_norm: Callable[[PyTree], jax.Array]


def compile_programs(setup: Setup) -> Programs:
    """Compile the programs of a run from shapes, and print the memory of a step."""
    config, training = setup.run.config, setup.training
    shardings, replicated = training.shardings, sharding.replicated(setup.run.mesh)
    validate = make_validation(
        from_config.example_loss(setup.run.model),
        training.parts.validation_edges,
        config.seed,
        setup.run.model.to_x0,
    )
    batches = [setup.batch_shapes] * setup.steps_per_dispatch
    lowered = [
        jax.jit(
            several_steps(training.parts.step),
            donate_argnums=0,
            out_shardings=(shardings, replicated),
        ).lower(training.state, batches),
        jax.jit(validate, out_shardings=replicated).lower(
            training.state.params, setup.validation_batch
        ),
    ]
    if setup.items is None:
        fresh = jax.jit(training.parts.init, out_shardings=shardings)
        lowered.append(fresh.lower(jax.random.key(config.seed)))
    steps, validated, *init = compile_together(lowered)
    if planned := planned_memory(steps):
        print(describe_memory(planned, device_memory()))
    param_norm = jax.jit(optax.tree.norm, out_shardings=replicated)
    return Programs(init[0] if init else None, steps, validated, param_norm)


def first_state(setup: Setup, programs: Programs) -> TrainState:
    """Return the state before the first step of this process: restored or new."""
    if programs.init is None:
        assert setup.items is not None
        return from_items(setup.items)
    state = programs.init(jax.random.key(setup.run.config.seed))
    if setup.weights is not None:
        state = with_params(state, with_classes(state.params, setup.weights))
        print(f"starting from the weights of {setup.run.config.init_from}")
    overview = parameter_overview.get_parameter_overview(
        setup.training.state.params, include_stats=False
    )
    print(overview)
    return state


# --- Loop -----------------------------------------------------------------------------------------


class End(NamedTuple):
    """The end of the loop."""

    exit_code: int
    step: int  # steps done and saved
    last_bad_step: int  # the newest logged step with NaN or inf, counted from 1; 0 if none


def run_loop(setup: Setup, programs: Programs, goodput: Goodput, stop: Stop) -> End:
    """Train until the end, a signal, or too many steps in a row with NaN or inf.

    The loop waits for the devices only when something is due. It first waits for the steps in
    flight, so that their time counts as time of steps.
    """
    run, training, saver, start = setup.run, setup.training, setup.saver, setup.start
    config, mesh, at_once = run.config, run.mesh, setup.steps_per_dispatch
    batch_size, total_steps = config.train.batch_size, setup.total_steps
    state = first_state(setup, programs)
    log = open_log(setup, goodput)
    batches = Prefetcher(training.batch_at, start)
    in_flight = InFlight(_IN_FLIGHT)
    profile = Profile(run.path / "profile", setup.profiled, in_flight.finish)
    exit_code, last_bad_step = EXIT_FINISHED, 0

    # Closed in reverse order, also after an exception: all logs and checkpoints are written.
    with closing(saver.checkpoints), closing(log), closing(batches), closing(profile):
        stop.at_once = False

        # --- The loss before the first step ---
        if start == 0:
            with goodput.of("evaluation"):
                initial = fetch(programs.validate(state.params, setup.validation_batch))
                log.validation(0, initial, initial)
            placed = sharding.on_every_device(mesh, initial)
            state = state.replace(clusters=state.clusters._replace(initial_loss=placed))
        else:
            initial = fetch(state.clusters.initial_loss)
        log.begin_window(start, batches.wait_seconds)

        for done in range(start + at_once, total_steps + 1, at_once):
            first, last = done == start + at_once, done == total_steps

            # --- One dispatch ---
            profile.before(done - at_once, done)
            with goodput.of("data"):
                several = [
                    sharding.global_batch(mesh, next(batches), batch_size) for _ in range(at_once)
                ]
            annotation = jax.profiler.StepTraceAnnotation("train", step_num=done - at_once)
            with goodput.of("step"), annotation:
                state, metrics = programs.steps(state, several)
                in_flight.add(metrics["loss"])
            profile.after(done)

            # --- What is due ---
            due = {name for name, n in setup.every.items() if n and (last or done % n == 0)}
            if due or first:
                with goodput.of("step"):
                    in_flight.finish()
            if first:
                # Not earlier: importing TensorFlow keeps a core busy for 20 seconds.
                log.start_tensorboard()
            if "log" not in due:
                log.progress(done)
            if "log" in due:
                with goodput.of("logging"):
                    values = fetch(metrics | {"param_norm": programs.param_norm(state.params)})
                    last_bad_step = log_metrics(setup, log, done, values, batches.wait_seconds)
                if values["bad_steps_in_a_row"] >= config.train.max_bad_steps:
                    exit_code = EXIT_BAD_NUMBERS
            if "validation" in due:
                with goodput.of("evaluation"):
                    loss = fetch(programs.validate(state.params, setup.validation_batch))
                    log.validation(done, loss, initial)
            if "sample" in due:
                with goodput.of("evaluation"):
                    log_samples(setup, log, done, state)
            if "evaluate" in due:
                with goodput.of("evaluation"):
                    log_evaluation(setup, log, done, state)
            if "log" in due:
                log.begin_window(done, batches.wait_seconds)

            # --- Stop, save ---
            # Counted in dispatches: several processes stop together after the next one.
            if stop.after(done // at_once) and not last:
                exit_code = EXIT_STOPPED
            if exit_code or "checkpoint" in due:
                with goodput.of("step"):
                    in_flight.finish()
                with goodput.of("checkpoint"):
                    saver.save(done, to_items(state), required=bool(exit_code) or last)
            if exit_code:
                break
        with goodput.of("checkpoint"):
            saver.finish(required=True)
    return End(exit_code, done, last_bad_step)


# --- Logging --------------------------------------------------------------------------------------


def open_log(setup: Setup, goodput: Goodput) -> RunLog:
    """Open the log of a run; it continues after the steps that are done."""
    config = setup.run.config
    return RunLog(
        setup.run.path,
        config.log.tensorboard,
        setup.start,
        setup.total_steps,
        setup.training.parts.num_stages,
        config.train.batch_size,
        goodput,
    )


def log_metrics(setup: Setup, log: RunLog, done: int, values: dict[str, Any], waited: float) -> int:
    """Log fetched metrics and warn of steps with NaN or inf; return `End.last_bad_step`.

    Args:
      waited: seconds the loop has waited for data so far.
    """
    recent_bad = values.pop("recent_bad_steps")
    warn_of_bad_steps(setup, recent_bad[recent_bad >= log.window_start])
    values["learning_rate"] = setup.training.parts.schedule(done - 1 - values["bad_steps"])
    values["bad_examples"] = setup.training.examples.num_bad
    log.line(done, values, waited)
    return int(recent_bad[0]) + 1


def warn_of_bad_steps(setup: Setup, steps: np.ndarray) -> None:
    """Warn of bad steps, and list the examples of their batches.

    Args:
      steps: the number of steps done before each bad step.
    """
    if jax.process_index() > 0:
        return
    config, source = setup.run.config, setup.training.train
    indices = batch_indices(source.size, config.seed, config.train.batch_size)
    for step in sorted(steps.tolist()):
        logging.warning(
            f"Step {step + 1} was skipped, because its loss or gradient has NaN or inf. "
            f"Its batch has these examples of {source.name}: "
            f"{', '.join(map(str, indices(step)))}."
        )


def log_samples(setup: Setup, log: RunLog, done: int, state: TrainState) -> None:
    """Log a grid of samples; all processes generate together."""
    params = weights_of(setup, state, setup.shown_ema, done)
    images = setup.generator.images(params, min(setup.run.config.sample.num, 100))
    if images is not None:
        log.samples(done, setup.generator.grid(images))


def log_evaluation(setup: Setup, log: RunLog, done: int, state: TrainState) -> None:
    """Log the metrics of each EMA in `evaluate.emas`."""
    assert setup.evaluation is not None  # an evaluation is due
    found = {
        name: setup.evaluation(weights_of(setup, state, name, done))
        for name in setup.evaluated_emas
    }
    log.scalars(done, scalars(setup.run.config, found))


def weights_of(setup: Setup, state: TrainState, name: str, done: int) -> PyTree:
    """Return the weights with a name as in `from_config.ema_name`, after `done` steps."""
    if name == "raw":
        return state.params
    std = from_config.posthoc_std(name)
    if std is None:
        return state.ema[name]
    setup.saver.finish()  # earlier checkpoints are read
    stds = setup.run.config.ema.power_stds
    return combined_emas(setup.saver.checkpoints, state.ema, stds, std, done)


# --- End ------------------------------------------------------------------------------------------


def print_end(setup: Setup, end: End) -> None:
    """Print how the run ended; write the convergence report of a finished run."""
    path, config = setup.run.path, setup.run.config
    if end.exit_code == EXIT_BAD_NUMBERS:
        logging.error(
            f"The loss or its gradient had NaN or inf for {config.train.max_bad_steps} steps in a "
            f"row; the last good state is saved at step {end.step}. Lower config.optim.lr, clip "
            "with config.optim.clip_norm, or use float32. To repeat the last of these steps: "
            f"python -m cdt.main {shlex.join(sys.argv[1:])} --mode=replay "
            f"--config.replay.step={end.last_bad_step}"
        )
    elif end.exit_code == EXIT_STOPPED:
        print(
            f"stopped by a signal and saved at step {end.step}; run the same command again to "
            "resume"
        )
    elif jax.process_index() == 0:
        try:
            write_convergence(path)
            print(f"finished; samples, convergence.png and metrics are in {path}")
        except (OSError, ValueError) as error:  # a ValueError where metrics could not be written
            logging.warning(
                f"The run has finished and is saved, but its report cannot be written to {path} "
                f"({error}); metrics.jsonl has the metrics that could be written."
            )
