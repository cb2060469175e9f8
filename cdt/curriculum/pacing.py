"""Pacing: rules that decide when the next stage begins.

In stage n = 1..N, n clusters are open. Stage N is ordinary training and lasts until the run ends.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax.numpy as jnp
from jax import Array


class PacingState(NamedTuple):
    """State of the pacing: scalars, saved in each checkpoint.

    Attributes:
      stage: int32[], number of open clusters, 1..N.
      best: f32[], lowest smoothed loss of this stage; inf before its first step.
      bad_steps: int32[], steps since `best` improved.
      smoothed: f32[], smoothed loss.
      stage_steps: int32[], steps done in this stage.
    """

    stage: Array
    best: Array
    bad_steps: Array
    smoothed: Array
    stage_steps: Array


class Pacing(NamedTuple):
    """A pacing rule, as pure functions.

    Attributes:
      num_stages: N, number of stages.
      init: () -> state before the first step.
      update: (state, loss, step) -> state after the step. loss f32[] is the mean over the global
        batch of weight times loss; step int32[] is the index of the step with this loss.
    """

    num_stages: int
    init: Callable[[], PacingState]
    update: Callable[[PacingState, Array, Array], PacingState]


def patience(
    tau: int,
    num_stages: int,
    smoothing: float = 0.0,
    min_delta: float = 0.0,
    max_stage_steps: int | None = None,
    open_all_at: int | None = None,
) -> Pacing:
    """Return the pacing that ends a stage when the loss has not improved for `tau` steps.

    A step improves if loss < best - min_delta. After tau steps without improvement the next stage
    begins, with best = inf and without smoothed history.

    Args:
      tau: patience in steps, >= 1.
      num_stages: N >= 1.
      smoothing: coefficient of the exponential moving average of the loss, in [0, 1). At 0 the
        loss of each batch is used as it is, and batch noise decides when a stage ends: with
        independent, identically distributed losses and tau = 200, after about 355 steps.
      min_delta: decrease of the loss that an improvement must exceed, >= 0.
      max_stage_steps: longest length of a stage in steps, >= 1; None for no limit.
      open_all_at: absolute step from which every cluster is open; None for never.

    Raises:
      ValueError: an argument outside its range.

    Source: Kim et al. 2025, arXiv 2403.10348; smoothing, min_delta and the two limits are added.
    """
    if tau < 1:
        raise ValueError(f"The patience tau is {tau} steps; it must be at least 1.")
    if not 0.0 <= smoothing < 1.0:
        raise ValueError(f"The smoothing of the pacing is {smoothing}; it must lie in [0, 1).")
    if min_delta < 0.0:
        raise ValueError(f"The min_delta of the pacing is {min_delta}; it must be at least 0.")
    if max_stage_steps is not None and max_stage_steps < 1:
        raise ValueError(f"max_stage_steps is {max_stage_steps}; it must be at least 1.")

    def stage_ends(state: PacingState) -> Array:
        ends = state.bad_steps >= tau
        if max_stage_steps is not None:
            ends |= state.stage_steps >= max_stage_steps
        return ends

    return _pacing(stage_ends, num_stages, smoothing, min_delta, open_all_at)


def fixed(steps_per_stage: int, num_stages: int, open_all_at: int | None = None) -> Pacing:
    """Return the pacing in which every stage lasts `steps_per_stage` steps.

    Args:
      steps_per_stage: length of a stage in steps, >= 1.
      num_stages: N >= 1.
      open_all_at: absolute step from which every cluster is open; None for never.

    Raises:
      ValueError: an argument outside its range.
    """
    if steps_per_stage < 1:
        raise ValueError(f"steps_per_stage is {steps_per_stage}; it must be at least 1.")
    return _pacing(
        lambda state: state.stage_steps >= steps_per_stage, num_stages, 0.0, 0.0, open_all_at
    )


def _pacing(
    stage_ends: Callable[[PacingState], Array],
    num_stages: int,
    smoothing: float,
    min_delta: float,
    open_all_at: int | None,
) -> Pacing:
    if num_stages < 1:
        raise ValueError(f"The number of stages is {num_stages}; it must be at least 1.")

    def init() -> PacingState:
        return PacingState(
            stage=jnp.int32(1),
            best=jnp.float32(jnp.inf),
            bad_steps=jnp.int32(0),
            smoothed=jnp.float32(0.0),
            stage_steps=jnp.int32(0),
        )

    def update(state: PacingState, loss: Array, step: Array) -> PacingState:
        last = state.stage >= num_stages
        smoothed = jnp.where(
            state.stage_steps == 0, loss, smoothing * state.smoothed + (1.0 - smoothing) * loss
        )
        improved = smoothed < state.best - min_delta
        counted = PacingState(
            stage=state.stage,
            # The last stage never ends, so only its length is counted.
            best=jnp.where(improved & ~last, smoothed, state.best),
            bad_steps=jnp.where(last | improved, 0, state.bad_steps + 1),
            smoothed=smoothed,
            stage_steps=state.stage_steps + 1,
        )
        next_stage = jnp.where(stage_ends(counted), state.stage + 1, state.stage)
        if open_all_at is not None:
            next_stage = jnp.where(step + 1 >= open_all_at, num_stages, next_stage)
        next_stage = jnp.minimum(next_stage, num_stages)
        advance = next_stage > state.stage
        # best starts at inf again, and stage_steps = 0 restarts the smoothing: the loss rises when
        # a harder cluster opens, so otherwise every later stage would end after tau steps.
        fresh = init()._replace(stage=next_stage, smoothed=smoothed)
        return PacingState(*(jnp.where(advance, a, b) for a, b in zip(fresh, counted, strict=True)))

    return Pacing(num_stages, init, update)
