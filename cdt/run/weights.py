"""The weights of a run: read for sampling, combined from EMAs after training, or initial."""

import itertools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from etils import epath

from cdt import from_config
from cdt.devices import sharding
from cdt.errors import UserError, user_errors
from cdt.monitoring import console
from cdt.run.open_run import OpenRun
from cdt.training import posthoc_ema
from cdt.workdir.checkpoint import Checkpointer
from cdt.workdir.record import recorded_config

PyTree = Any


def load_params(run: OpenRun) -> tuple[int, PyTree]:
    """Return (step, params f32) of the newest undamaged checkpoint; all processes call it together.

    The parameters are the EMA `sample.ema`, or the raw weights if it is "raw".

    Raises:
      UserError: there is no checkpoint, or it does not fit the run's network.
    """
    config = run.config
    name = from_config.ema_name(config)
    std = from_config.posthoc_std(name)
    shapes = jax.eval_shape(run.model.init, jax.random.key(0))
    if name == "raw":
        item, tree = "params", shapes
    else:
        item, tree = "ema", {name: shapes for name in from_config.ema_decays(config)}
    with user_errors():
        shardings = sharding.state_sharding(run.mesh, tree, config.mesh.min_shard_size)
    checkpoints = Checkpointer(run.path / "checkpoints", keep=config.checkpoint.keep)
    with console.phase(f"reading the newest checkpoint of {run.path}") as reading:
        step, items, _ = checkpoints.restore_items({item: sharding.abstract(tree, shardings)})
        reading.result = f"step {step}, {'raw weights' if name == 'raw' else f'EMA {name}'}"
    if std is not None:
        return step, combined_emas(checkpoints, items[item], config.ema.power_stds, std, step)
    return step, items[item] if name == "raw" else items[item][name]


def combined_emas(
    checkpoints: Checkpointer,
    emas: dict[str, PyTree],
    stds: Sequence[float],
    std: float,
    step: int,
) -> PyTree:
    """Return an EMA of another width, combined from the power-function EMAs of a run, at `step`.

    Args:
      checkpoints: checkpoints of the run; all older than `step` are used. More checkpoints give a
        closer result.
      emas: name -> f32 params, the EMAs at `step`.
      stds: relative widths of these EMAs.
      std: relative width of the result.
      step: steps done.

    Raises:
      UserError: `step` is 0, or an older checkpoint is damaged.

    Source: see `cdt.training.posthoc_ema`.
    """
    if step < 1:
        raise UserError(
            f"config.sample.ema is 'posthoc{std:g}', but the checkpoint is of step 0, which has no "
            "EMA; give 'raw'."
        )
    abstract = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), emas
    )
    steps = [step, *(older for older in checkpoints.steps() if older < step)]
    stored = list(itertools.product(steps, stds))
    weights = dict(zip(stored, posthoc_ema.coefficients(stored, std).tolist(), strict=True))
    total = None
    for at in steps:
        if at != step:
            emas = checkpoints.restore_items({"ema": abstract}, at)[1]["ema"]
        for width in stds:
            weight = weights[at, width]
            part = jax.tree.map(lambda x, c=weight: c * x, emas[from_config.power_name(width)])
            total = part if total is None else jax.tree.map(jnp.add, total, part)
    return total


def initial_params(run: OpenRun) -> PyTree:
    """Return the weights that the run in `init_from` samples with, with that run's classes.

    `cdt.models.conditioning.with_classes` fits them to the classes of this run.

    Raises:
      UserError: there is no such run, or its network is different.
    """
    config, model = run.config, run.model
    path = epath.Path(config.init_from).expanduser()
    try:
        theirs = recorded_config(path)
        theirs.mesh = config.mesh
        heads = [from_config.attention_heads(c) for c in (theirs, config)]
        if heads[0] != heads[1]:
            raise UserError(
                f"its network has {heads[0]} attention heads and this run's {heads[1]}; give the "
                "same config.model."
            )
        known, wanted = theirs.model.num_classes, config.model.num_classes
        if known and not wanted:
            raise UserError(
                f"its network has {known} classes and this run's has none; set "
                "config.model.num_classes to the number of classes of your data."
            )
        if known != wanted:
            like_theirs = config.copy_and_resolve_references()
            like_theirs.model.num_classes = known
            model = from_config.model(like_theirs, run.mesh)
        _, params = load_params(OpenRun(theirs, path, run.mesh, model))
    except UserError as error:
        raise UserError(f"config.init_from is '{config.init_from}': {error}") from error
    return params
