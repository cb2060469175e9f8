"""The data, the train step and the shapes of the state, for the modes train and replay."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax

from cdt import from_config
from cdt.data.bad_examples import Examples
from cdt.data.pipeline import HostBatch, make_batch
from cdt.data.sources import Source
from cdt.devices import sharding
from cdt.devices.agreement import errors_of_all
from cdt.errors import UserError, user_errors
from cdt.monitoring import console
from cdt.run.open_run import OpenRun
from cdt.training.state import TrainState
from cdt.workdir.checkpoint import Checkpointer

PyTree = Any


class TrainingRun(NamedTuple):
    """A run that is ready to train, before its state is read."""

    train: Source
    test: Source  # held out
    examples: Examples  # reads `train` and counts damaged examples
    batch_at: Callable[[int], HostBatch]  # step -> this process's rows of the global batch
    checkpoints: Checkpointer
    saved: bool  # whether there is a checkpoint
    open_all_at: int  # step from which every cluster is open, as the run started with it
    parts: from_config.Training
    state: TrainState  # of jax.ShapeDtypeStruct, with shardings

    @property
    def shardings(self) -> PyTree:
        """The sharding of each leaf of the state."""
        return jax.tree.map(lambda leaf: leaf.sharding, self.state)


def describe_data(train: Source, test: Source) -> str:
    """Return the names and sizes of the training and the held-out data as text."""
    return f"{train.name}: {train.size:,} examples, held out {test.name}: {test.size:,}"


def open_training(run: OpenRun) -> TrainingRun:
    """Open the data and the checkpoints of a run and build its train step.

    Puts the class names of the data into `config.data.class_names`.

    Raises:
      UserError: the config or the data is wrong, all checkpoints are damaged, or the workdir has
        imported weights.
    """
    config, path = run.config, run.path
    with errors_of_all(), user_errors():
        with console.phase("reading data") as reading:
            train, test = from_config.data(config)
            reading.result = describe_data(train, test)
        if config.model.num_classes:
            # Recorded with the config, so that sampling needs no data to name the classes.
            config.data.class_names = train.classes or ()
    # Before the processes read checkpoints together, because this can fail on one process alone.
    with errors_of_all(), user_errors():
        checkpoints = Checkpointer(
            path / "checkpoints",
            keep=config.checkpoint.keep,
            keep_every=from_config.keep_every(config, train.size),
        )
        meta = checkpoints.read_meta()
        if meta and "open_all_at" not in meta:
            raise UserError(
                f"The workdir {path} has imported weights and no run; give another --workdir, and "
                f"--config.init_from={path} to start from these weights."
            )
        open_all_at = meta["open_all_at"] if meta else from_config.open_all_at(config, train.size)
        parts = from_config.training(config, run.model, run.mesh.size, train.size, open_all_at)
        shapes = jax.eval_shape(parts.init, jax.random.key(config.seed))
        shardings = sharding.state_sharding(run.mesh, shapes, config.mesh.min_shard_size)
        examples = from_config.examples(config, train)
        batch_at = make_batch(
            train,
            examples=examples,
            seed=config.seed,
            batch_size=config.train.batch_size,
            flip=config.data.flip,
            rows=sharding.local_rows(run.mesh, config.train.batch_size),
        )
    return TrainingRun(
        train, test, examples, batch_at, checkpoints, meta is not None, open_all_at, parts,
        sharding.abstract(shapes, shardings),
    )  # fmt: skip
