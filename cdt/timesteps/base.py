"""The protocol between the train step and whatever decides at which noise levels it trains.

Two tuples of pure functions in the manner of `optax.GradientTransformation`: a `Density` says
*where* in u a run puts its emphasis, a `TimestepSampler` draws from it, possibly from a part of u
only. The train step calls both through these names and knows no method by name.

u is the noise coordinate: the quantile of the family's own training noise distribution, in
[0, 1), 0 clean. All states are pytrees of arrays, so they are checkpointed and resume exactly.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

from jax import Array

State = Any  # a pytree of arrays


class Draw(NamedTuple):
    """Noise levels of one global batch."""

    u: Array  # f32[B] in [0, 1)
    weight: Array  # f32[B], importance weight of each example's loss; 1 unless the density corrects


class Feedback(NamedTuple):
    """What the train step learned about a draw; of the global batch, float32, no gradient."""

    loss: Array  # [B], with the loss weight, before `Draw.weight`
    eps_error: Array  # [B], |eps_hat - eps|^2 summed over dimensions, whatever the prediction


class Density(NamedTuple):
    """A probability density over u, described by its distribution function F.

    Draws times weights stand for the density of `objective_cdf`: F itself where the density is
    meant to change the objective (the weight is then 1), u where it only lowers the variance.
    """

    init: Callable[[], State]
    cdf: Callable[[State, Array], Array]  # (state, u) -> F(u), increasing, [0, 1] onto [0, 1]
    icdf: Callable[[State, Array], Array]  # (state, q) -> u with F(u) = q
    objective_cdf: Callable[[State, Array], Array]  # (state, u) -> F of the weighted draws
    weight: Callable[[State, Array], Array]  # (state, u) -> importance weight
    update: Callable[[State, Draw, Feedback], State]


class TimestepSampler(NamedTuple):
    """Draws the noise levels of each global batch and learns from their losses."""

    init: Callable[[], State]
    sample: Callable[[State, Array, int], Draw]  # (state, PRNG key, n) -> Draw of n levels
    update: Callable[[State, Draw, Feedback, Array], State]  # last: int32 index of the step
    metrics: Callable[[State], dict[str, Array]]  # scalars (or [stages]) worth logging
