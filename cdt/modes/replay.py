"""--mode=replay: repeat one step, to find the source of its NaN or inf."""

import jax
import numpy as np
from ml_collections import ConfigDict

from cdt import from_config
from cdt.data.pipeline import batch_indices
from cdt.devices import sharding
from cdt.devices.agreement import errors_of_all
from cdt.errors import EXIT_BAD_NUMBERS, EXIT_FINISHED, UserError
from cdt.monitoring import console
from cdt.run.open_run import open_run
from cdt.run.training_run import open_training
from cdt.training.state import from_items, to_items


def replay(config: ConfigDict, workdir: str) -> int:
    """Repeat step `replay.step` with the state of the newest checkpoint; change no file.

    The batch and all random draws are those of the step. The state is that of the newest
    checkpoint. If NaN or inf stopped the run at that step, it is also the state of the step,
    because bad steps change nothing. With JAX_DEBUG_NANS=True, JAX names the operation that
    returns NaN.

    Returns:
      3 if the loss or the gradient has NaN or inf, otherwise 0.

    Raises:
      UserError: the config is wrong, or there is no checkpoint.
    """
    with errors_of_all():
        from_config.check_config(config, "replay")
    run = open_run(config, workdir)
    training = open_training(run)
    step = config.replay.step - 1
    if not training.saved:
        raise UserError(
            f"There is no checkpoint of a run in {run.path}: train first, or fix --workdir."
        )
    with console.phase("reading the newest checkpoint"):
        saved_at, items, _ = training.checkpoints.restore_items(to_items(training.state))

    state = from_items(items)
    state = state.replace(step=jax.device_put(np.int32(step), state.step.sharding))
    batch = sharding.global_batch(run.mesh, training.batch_at(step), config.train.batch_size)
    replicated = sharding.replicated(run.mesh)
    program = jax.jit(training.parts.step, out_shardings=(training.shardings, replicated))
    with console.phase("compiling and running the step"):
        _, metrics = program(state, batch)
        loss, grad_norm = (float(jax.device_get(metrics[name])) for name in ("loss", "grad_norm"))
    finite = bool(np.isfinite([loss, grad_norm]).all())
    indices = batch_indices(training.train.size, config.seed, config.train.batch_size)(step)
    print(
        f"step {step + 1} with the state of step {saved_at}: loss {loss}, gradient norm "
        f"{grad_norm}; {'no NaN or inf' if finite else 'NaN or inf found'}\n"
        f"examples of {training.train.name}: {', '.join(map(str, indices))}"
    )
    return EXIT_FINISHED if finite else EXIT_BAD_NUMBERS
