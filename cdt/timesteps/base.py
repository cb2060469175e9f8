"""The interface between the train step and a method that chooses noise levels.

`Density` and `TimestepSampler` are tuples of pure functions, like `optax.GradientTransformation`.
Their states are pytrees of arrays, which are saved in checkpoints.

The noise level u in [0, 1) is the quantile of the family's own distribution of training noise
levels; u = 0 is clean.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

from jax import Array

State = Any  # a pytree of arrays


class Draw(NamedTuple):
    """Noise levels of one global batch.

    Attributes:
      u: f32[B] in [0, 1).
      weight: f32[B], importance weight of each example's loss; 1 for most densities.
    """

    u: Array
    weight: Array


class Feedback(NamedTuple):
    """Losses of one global batch, float32, without gradient.

    Attributes:
      loss: [B], times the loss weight, without the importance weight `Draw.weight`.
      eps_error: [B], |eps_hat - eps|^2 summed over dimensions, for any prediction.
    """

    loss: Array
    eps_error: Array


class Density(NamedTuple):
    """A probability density over u, given by its cumulative distribution function F.

    A density either changes the objective or reduces the variance of its estimate. In the first
    case the weight is 1 and `objective_cdf` is F. In the second case the weight corrects the draws
    to uniform ones and `objective_cdf` is u.

    Attributes:
      init: () -> state.
      cdf: (state, u) -> F(u), increasing from F(0) = 0 to F(1) = 1.
      icdf: (state, q in [0, 1)) -> u in [0, 1) with F(u) = q.
      objective_cdf: (state, u) -> cumulative distribution function of draws times weights.
      weight: (state, u) -> importance weight.
      update: (state, draw, feedback) -> state after the step.
    """

    init: Callable[[], State]
    cdf: Callable[[State, Array], Array]
    icdf: Callable[[State, Array], Array]
    objective_cdf: Callable[[State, Array], Array]
    weight: Callable[[State, Array], Array]
    update: Callable[[State, Draw, Feedback], State]


class TimestepSampler(NamedTuple):
    """Draws the noise levels of each global batch and learns from their losses.

    Attributes:
      init: () -> state.
      sample: (state, PRNG key, n) -> Draw of n levels.
      update: (state, draw, feedback, step) -> state after the step; step is its int32 index.
      metrics: state -> scalars or arrays [stages] to log, by name.
    """

    init: Callable[[], State]
    sample: Callable[[State, Array, int], Draw]
    update: Callable[[State, Draw, Feedback, Array], State]
    metrics: Callable[[State], dict[str, Array]]
