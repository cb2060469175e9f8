"""--mode=replay: one step again, for who wants to know why its numbers were not finite."""

import jax
import numpy as np
from etils import epath
from ml_collections import ConfigDict

from cdt import from_config
from cdt.data.pipeline import batch_indices, make_batch
from cdt.devices import sharding
from cdt.devices.agreement import errors_of_all
from cdt.errors import EXIT_BAD_NUMBERS, EXIT_FINISHED, UserError, user_errors
from cdt.training.state import from_items, to_items
from cdt.workdir.checkpoint import Checkpointer
from cdt.workdir.record import check_identity


def replay(config: ConfigDict, workdir: str) -> int:
    """Repeats step `replay.step` with the state of the newest checkpoint; changes no file.

    The batch and all that is drawn are those of the step. The state is that of the step where bad
    numbers have stopped the run there, since they changed nothing; else it is that of the
    checkpoint. JAX's own tools, such as JAX_DEBUG_NANS=True, then see the operation.

    Returns:
      3 where the loss or its gradient is not finite, 0 where they are.

    Raises:
      UserError: something in the config is wrong, or there is no checkpoint.
    """
    path, step = epath.Path(workdir), config.replay.step - 1
    with errors_of_all(), user_errors():
        if step < 0:
            raise UserError(f"config.replay.step is {step + 1}; give a step, from 1 on.")
        check_identity(path, config)
        mesh = from_config.mesh(config)
        source, _ = from_config.data(config)
        model = from_config.model(config, mesh)
        batch_at = make_batch(
            source,
            examples=from_config.examples(config, source),
            seed=config.seed,
            batch_size=config.train.batch_size,
            flip=config.data.flip,
            rows=sharding.local_rows(mesh, config.train.batch_size),
        )
    with errors_of_all(), user_errors():
        checkpoints = Checkpointer(path / "checkpoints", keep=config.checkpoint.keep)
        meta = checkpoints.read_meta()
        if meta is None or "open_all_at" not in meta:  # nothing, or imported weights
            raise UserError(
                f"There is no checkpoint of a run in {path}: train first, or mend --workdir."
            )
        parts = from_config.training(config, model, mesh.size, source.size, meta["open_all_at"])
        shapes = jax.eval_shape(parts.init, jax.random.key(config.seed))
        shardings = sharding.state_sharding(mesh, shapes, config.mesh.min_shard_size)
        saved_at, items, _ = checkpoints.restore_items(
            to_items(sharding.abstract(shapes, shardings))
        )

    state = from_items(items)
    state = state.replace(step=jax.device_put(np.int32(step), state.step.sharding))
    batch = sharding.global_batch(mesh, batch_at(step), config.train.batch_size)
    program = jax.jit(parts.step, out_shardings=(shardings, sharding.replicated(mesh)))
    _, metrics = program(state, batch)
    loss, grad_norm = (float(jax.device_get(metrics[name])) for name in ("loss", "grad_norm"))
    finite = bool(np.isfinite([loss, grad_norm]).all())
    indices = batch_indices(source.size, config.seed, config.train.batch_size)(step)
    print(
        f"step {step + 1} with the state of step {saved_at}: loss {loss}, gradient norm "
        f"{grad_norm}, which are{'' if finite else ' not'} finite\n"
        f"examples of {source.name}: {', '.join(map(str, indices))}"
    )
    return EXIT_FINISHED if finite else EXIT_BAD_NUMBERS
