"""The train state: arrays only, everything that must survive a restart."""

from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
from jax import Array

from cdt.curriculum.cluster_losses import ClusterStatistics

PyTree = Any

_RECENT = 8


class BadSteps(flax.struct.PyTreeNode):
    """Counts steps whose loss or gradient had NaN or inf; they changed nothing."""

    in_a_row: Array  # int32[]
    total: Array  # int32[]
    # int32[R], the last of them as steps done before them, the newest first; -1: none. For the log
    # alone: no checkpoint has it.
    recent: Array


class TrainState(flax.struct.PyTreeNode):
    """One training run at the end of step `step` - 1.

    The data position is `step` itself: a batch is a pure function of (seed, step, rows).
    """

    step: Array  # int32[], steps done
    params: PyTree  # f32
    ema: dict[str, PyTree]  # name -> averaged params, f32
    opt_state: PyTree
    timesteps: PyTree  # state of the timestep sampler, the curriculum's stage included
    clusters: ClusterStatistics
    bad: BadSteps


def no_bad_steps() -> BadSteps:
    """Counters at zero."""
    return BadSteps(
        in_a_row=jnp.int32(0), total=jnp.int32(0), recent=jnp.full(_RECENT, -1, jnp.int32)
    )


def starting_from(state: TrainState, params: PyTree) -> TrainState:
    """A state before the first step, with other weights, of which each average is a copy."""
    # Copies: the train step donates params and averages, which must not share buffers.
    ema = {name: jax.tree.map(jnp.copy, params) for name in state.ema}
    return state.replace(params=params, ema=ema)


def to_items(state: TrainState) -> dict[str, PyTree]:
    """The state as the separate items of a checkpoint; of arrays or jax.ShapeDtypeStruct."""
    return {
        "params": state.params,
        "ema": state.ema,
        "opt": state.opt_state,
        "timesteps": state.timesteps,
        "clusters": state.clusters,
        "counters": {
            "step": state.step,
            "bad": {"in_a_row": state.bad.in_a_row, "total": state.bad.total},
        },
    }


def from_items(items: dict[str, PyTree]) -> TrainState:
    """The state of a checkpoint, with a fresh chance for a run that bad numbers stopped."""
    counters = items["counters"]
    total = counters["bad"]["total"]
    return TrainState(
        step=counters["step"],
        params=items["params"],
        ema=items["ema"],
        opt_state=items["opt"],
        timesteps=items["timesteps"],
        clusters=items["clusters"],
        bad=jax.device_put(no_bad_steps(), total.sharding).replace(total=total),
    )
