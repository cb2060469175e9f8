"""The train state: arrays only, everything that must survive a restart."""

from typing import Any

import flax.struct
import jax.numpy as jnp
from jax import Array

from cdt.curriculum.statistics import ClusterStatistics

PyTree = Any


class BadSteps(flax.struct.PyTreeNode):
    """Steps whose loss or gradient was not finite; they changed nothing."""

    in_a_row: Array  # int32[]
    total: Array  # int32[]


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
    return BadSteps(in_a_row=jnp.int32(0), total=jnp.int32(0))
