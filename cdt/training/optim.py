"""Optimizer, learning-rate schedules, and exponential moving averages (EMAs) of the weights."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import Array

from cdt.training.posthoc_ema import gamma

PyTree = Any
Schedule = Callable[[Array], Array]  # int32 step index -> f32


def learning_rate(name: str, peak: float, warmup_steps: int, total_steps: int) -> Schedule:
    """Return the schedule int32 step -> f32 learning rate, with a linear warm-up from 0.

    Args:
      name: schedule after the warm-up. "constant" stays at `peak`; "cosine" falls to 0 at
        `total_steps`; "rsqrt" is peak * sqrt(warmup_steps / step) (Vaswani et al. 2017).
      peak: highest learning rate, >= 0.
      warmup_steps: length of the warm-up, >= 0 and < total_steps; >= 1 for "rsqrt".
      total_steps: length of the run in steps.

    Raises:
      ValueError: an unknown name, a warm-up as long as the run, or "rsqrt" without a warm-up.
    """
    if warmup_steps >= total_steps:
        raise ValueError(
            f"The warm-up of {warmup_steps} steps is not shorter than the run of {total_steps}; "
            "give a shorter one (config.optim.warmup)."
        )
    warmup = optax.linear_schedule(0.0, peak, warmup_steps)
    if name == "constant":
        after = optax.constant_schedule(peak)
    elif name == "cosine":
        after = optax.cosine_decay_schedule(peak, total_steps - warmup_steps)
    elif name == "rsqrt":
        if warmup_steps < 1:
            raise ValueError(
                "The learning-rate schedule is 'rsqrt', which needs a warm-up of at least one step."
            )

        def after(count: Array) -> Array:
            return peak * jnp.sqrt(warmup_steps / (count + warmup_steps))
    else:
        raise ValueError(
            f"The learning-rate schedule is '{name}'; it must be one of constant, cosine, rsqrt."
        )
    if warmup_steps == 0:
        return after
    return optax.join_schedules([warmup, after], [warmup_steps])


def make_optimizer(
    name: str,
    schedule: Schedule,
    b1: float,
    b2: float,
    eps: float,
    weight_decay: float,
    clip_norm: float | None,
) -> optax.GradientTransformation:
    """Return Adam or AdamW, with gradient clipping by the global norm before it.

    Args:
      name: "adam" or "adamw" (decoupled weight decay, Loshchilov & Hutter 2019).
      schedule: int32 step -> learning rate.
      b1: Adam's decay of the first moment, in [0, 1).
      b2: Adam's decay of the second moment, in [0, 1).
      eps: Adam's epsilon.
      weight_decay: weight decay of every parameter, with "adamw" only; 0 in DiT.
      clip_norm: largest global norm of the gradient; None for no clipping.

    Raises:
      ValueError: an unknown name, or weight decay with Adam.
    """
    if name == "adamw":
        update = optax.adamw(schedule, b1=b1, b2=b2, eps=eps, weight_decay=weight_decay)
    elif name == "adam":
        if weight_decay:
            raise ValueError(
                f"weight_decay is {weight_decay} for 'adam', which has none; set it to 0, or use "
                "'adamw'."
            )
        update = optax.adam(schedule, b1=b1, b2=b2, eps=eps)
    else:
        raise ValueError(f"The optimizer is '{name}'; it must be adam or adamw.")
    if clip_norm is None:
        return update
    return optax.chain(optax.clip_by_global_norm(clip_norm), update)


class Ema(NamedTuple):
    """One or more EMAs of the weights, in a dict name -> params.

    Attributes:
      init: params -> {name: copy of params}.
      update: (EMAs, params, int32 step index) -> EMAs after the step.
    """

    init: Callable[[PyTree], dict[str, PyTree]]
    update: Callable[[dict[str, PyTree], PyTree, Array], dict[str, PyTree]]


def fixed_decay(decay: float) -> Schedule:
    """Return the schedule beta = decay, the same at every step; 0.9999 in DiT."""
    return lambda step: jnp.float32(decay)


def half_life(images: float, batch_size: int, ramp: float = 0.05) -> Schedule:
    """Return the schedule beta = 0.5^(batch_size / min(images, ramp * images seen)).

    Args:
      images: half-life of the EMA, in images.
      batch_size: images per step.
      ramp: upper bound of the half-life as a fraction of the images seen, for the start of a run.

    Source: EDM (Karras et al. 2022, arXiv 2206.00364).
    """

    def beta(step: Array) -> Array:
        seen = (step + 1) * jnp.float32(batch_size)
        return 0.5 ** (batch_size / jnp.minimum(images, ramp * seen))

    return beta


def power_function(std: float) -> Schedule:
    """Return the schedule beta = (1 - 1/n)^(gamma + 1) in step n = 1, 2, ...

    Args:
      std: relative width of the EMA, see `cdt.training.posthoc_ema`.

    Raises:
      ValueError: std out of range, see `posthoc_ema.gamma`.

    Source: EDM2 (Karras et al. 2024, arXiv 2312.02696), section 3.1.
    """
    exponent = gamma(std) + 1.0
    # With log1p: after a million steps 1 - 1/n in float32 has an error of a few per cent of 1/n.
    return lambda step: jnp.exp(exponent * jnp.log1p(-1.0 / (step + 1)))


def ema(decays: Mapping[str, Schedule]) -> Ema:
    """Return EMAs of the weights, which are copies of them before the first step.

    The update is average <- beta average + (1 - beta) params.

    Args:
      decays: name of an EMA -> schedule of beta.
    """

    def init(params: PyTree) -> dict[str, PyTree]:
        # Copies: the train step donates params and EMAs, so they must not share buffers.
        return {name: jax.tree.map(jnp.copy, params) for name in decays}

    def update(averages: dict[str, PyTree], params: PyTree, step: Array) -> dict[str, PyTree]:
        def one(average: PyTree, beta: Array) -> PyTree:
            return jax.tree.map(lambda a, p: a + (1.0 - beta) * (p - a), average, params)

        return {name: one(averages[name], decay(step)) for name, decay in decays.items()}

    return Ema(init, update)
