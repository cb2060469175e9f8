"""A timestep sampler that switches from one sampler to another at a given step (Sun 2026)."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from cdt.timesteps.base import Draw, Feedback, State, TimestepSampler


class TwoPhaseState(NamedTuple):
    """States of both samplers, and the number of steps done.

    Attributes:
      first: state of the first sampler.
      then: state of the second sampler.
      step: int32[], steps done.
    """

    first: State
    then: State
    step: Array


def two_phase(first: TimestepSampler, then: TimestepSampler, switch_step: int) -> TimestepSampler:
    """Return the sampler that draws from `first` before `switch_step` and from `then` afterwards.

    Only the sampler that draws is updated.

    Args:
      first: sampler of the first phase.
      then: sampler of the second phase.
      switch_step: absolute step of the run, >= 0.

    Raises:
      ValueError: switch_step < 0.

    Source: Sun 2026, arXiv 2603.12517, with logit-normal levels first and uniform levels later.
    """
    if switch_step < 0:
        raise ValueError(f"The switch step is {switch_step}; it must be at least 0.")

    def pick(state: TwoPhaseState, a: Draw, b: Draw) -> list[Array]:
        switched = state.step >= switch_step
        return [jnp.where(switched, y, x) for x, y in zip(a, b, strict=True)]

    def sample(state: TwoPhaseState, key: Array, n: int) -> Draw:
        draws = first.sample(state.first, key, n), then.sample(state.then, key, n)
        return Draw(*pick(state, *draws))

    def update(state: TwoPhaseState, draw: Draw, feedback: Feedback, step: Array) -> TwoPhaseState:
        switched = state.step >= switch_step

        def learn(sampler: TimestepSampler, old: State, active: Array) -> State:
            new = sampler.update(old, draw, feedback, step)
            return jax.tree.map(lambda a, b: jnp.where(active, a, b), new, old)

        return TwoPhaseState(
            learn(first, state.first, ~switched), learn(then, state.then, switched), step + 1
        )

    def metrics(state: TwoPhaseState) -> dict[str, Array]:
        return {"phase": 1 + (state.step >= switch_step).astype(jnp.int32)}

    def init() -> TwoPhaseState:
        return TwoPhaseState(first.init(), then.init(), jnp.int32(0))

    return TimestepSampler(init, sample, update, metrics)
