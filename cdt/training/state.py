"""The train state: all arrays that a run needs to resume."""

from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
from jax import Array

from cdt.curriculum.cluster_losses import ClusterStatistics

PyTree = Any

_RECENT = 8


class BadSteps(flax.struct.PyTreeNode):
    """Counters of bad steps: steps with NaN or inf in loss or gradient, which change no weights.

    Attributes:
      in_a_row: int32[], consecutive bad steps until now.
      total: int32[], all bad steps.
      recent: int32[8], indices of the last bad steps, newest first, -1 for none. Only for the
        log: checkpoints do not have it.
    """

    in_a_row: Array
    total: Array
    recent: Array


class TrainState(flax.struct.PyTreeNode):
    """State of a training run after `step` steps.

    It needs no data position: a batch is a pure function of (seed, step, rows).

    Attributes:
      step: int32[], steps done.
      params: weights of the network, f32.
      ema: name -> EMA of params, f32.
      opt_state: state of the optimizer.
      timesteps: state of the timestep sampler, with the stage of the curriculum.
      clusters: loss sums per cluster.
      bad: counters of bad steps.
    """

    step: Array
    params: PyTree
    ema: dict[str, PyTree]
    opt_state: PyTree
    timesteps: PyTree
    clusters: ClusterStatistics
    bad: BadSteps


def no_bad_steps() -> BadSteps:
    """Return the counters at zero."""
    return BadSteps(
        in_a_row=jnp.int32(0), total=jnp.int32(0), recent=jnp.full(_RECENT, -1, jnp.int32)
    )


def with_params(state: TrainState, params: PyTree) -> TrainState:
    """Return the state with other weights, and copies of them as EMAs; for the start of a run."""
    # Copies: the train step donates params and EMAs, so they must not share buffers.
    ema = {name: jax.tree.map(jnp.copy, params) for name in state.ema}
    return state.replace(params=params, ema=ema)


def to_items(state: TrainState) -> dict[str, PyTree]:
    """Return the state as the items of a checkpoint; leaves are arrays or jax.ShapeDtypeStruct."""
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
    """Return the state of a checkpoint, with the counter of consecutive bad steps at zero."""
    # Otherwise a run that bad steps have stopped would stop again at once.
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
