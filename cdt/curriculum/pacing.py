"""Pacing: when the next stage begins. Pure functions of (state, loss, step).

Stage n = 1..N has n clusters open; stage N is ordinary training and lasts to the end.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax.numpy as jnp
from jax import Array


class PacingState(NamedTuple):
    """Scalars; all of them are checkpointed."""

    stage: Array  # int32, 1-based: the number of clusters open
    best: Array  # f32, lowest (smoothed) loss of this stage; inf before the first
    bad_steps: Array  # int32, steps since `best` improved
    smoothed: Array  # f32, the smoothed loss
    stage_steps: Array  # int32, steps spent in this stage


class Pacing(NamedTuple):
    """`update(state, loss, step)`: loss f32[] is the optimised loss, the mean over the global batch
    of weight times loss; step int32[] is the index of the step that had it."""

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
    """A stage ends once the loss has not improved for `tau` steps (Kim et al. 2025).

    A step is bad unless loss < best - min_delta. With tau bad steps in a row the next stage
    begins with best = inf and a fresh smoother: the loss *rises* when a harder cluster opens, so
    without both resets every later stage would end after tau steps whatever happens.

    Args:
      tau: patience in steps, >= 1.
      num_stages: N >= 1.
      smoothing: coefficient of an exponential moving average of the loss, in [0, 1); 0 is the raw
        loss, whose patience is governed by batch noise (i.i.d. losses end a stage of tau = 200
        after about 355 steps).
      min_delta: an improvement must exceed this, >= 0.
      max_stage_steps: a stage ends after this many steps at the latest; None is no limit.
      open_all_at: from this step (absolute) on, every cluster is open; None is never.

    Raises:
      ValueError: an argument outside its range.
    """
    if tau < 1:
        raise ValueError(f"The patience tau is {tau} steps; it must be at least 1.")
    if not 0.0 <= smoothing < 1.0:
        raise ValueError(f"The pacing's smoothing is {smoothing}; it must lie in [0, 1).")
    if min_delta < 0.0:
        raise ValueError(f"The pacing's min_delta is {min_delta}; it must not be negative.")
    if max_stage_steps is not None and max_stage_steps < 1:
        raise ValueError(f"max_stage_steps is {max_stage_steps}; it must be at least 1.")

    def stage_ends(state: PacingState) -> Array:
        ends = state.bad_steps >= tau
        if max_stage_steps is not None:
            ends |= state.stage_steps >= max_stage_steps
        return ends

    return _pacing(stage_ends, num_stages, smoothing, min_delta, open_all_at)


def fixed(steps_per_stage: int, num_stages: int, open_all_at: int | None = None) -> Pacing:
    """Every stage lasts `steps_per_stage` steps, whatever the loss.

    Args:
      steps_per_stage: >= 1.
      num_stages: N >= 1.
      open_all_at: from this step (absolute) on, every cluster is open; None is never.

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
            # The last stage never ends, so nothing is counted there but its length.
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
        fresh = init()._replace(stage=next_stage, smoothed=smoothed)
        return PacingState(*(jnp.where(advance, a, b) for a, b in zip(fresh, counted, strict=True)))

    return Pacing(num_stages, init, update)
