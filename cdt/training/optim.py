"""Optimizer chain, learning-rate schedules and exponential moving averages of the parameters."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import Array

from cdt.training.posthoc_ema import gamma

PyTree = Any
Schedule = Callable[[Array], Array]


def learning_rate(name: str, peak: float, warmup_steps: int, total_steps: int) -> Schedule:
    """int32 step -> f32 learning rate.

    Args:
      name: after a linear warm-up from 0, "constant" stays at `peak`; "cosine" falls to 0 at
        `total_steps`; "rsqrt" is peak * sqrt(warmup_steps / step) (Vaswani et al. 2017).
      peak: highest learning rate, >= 0; 0 trains nothing.
      warmup_steps: >= 0; "rsqrt" needs >= 1, as its decay starts there.
      total_steps: length of the run.

    Raises:
      ValueError: "rsqrt" without a warm-up, a warm-up as long as the run, or an unknown name.
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
            raise ValueError("The schedule 'rsqrt' needs a warm-up of at least one step.")

        def after(count: Array) -> Array:
            return peak * jnp.sqrt(warmup_steps / (count + warmup_steps))
    else:
        raise ValueError(f"The schedule '{name}' is none of constant, cosine, rsqrt.")
    if warmup_steps == 0:
        return after
    return optax.join_schedules([warmup, after], [warmup_steps])


def optimizer(
    name: str,
    schedule: Schedule,
    b1: float,
    b2: float,
    eps: float,
    weight_decay: float,
    clip_norm: float | None,
) -> optax.GradientTransformation:
    """Adam or AdamW after clipping by the global norm.

    Args:
      name: "adam" or "adamw" (decoupled decay, Loshchilov & Hutter 2019).
      schedule: int32 step -> learning rate.
      b1, b2, eps: Adam's constants.
      weight_decay: for "adamw", applied to every parameter; 0 in DiT.
      clip_norm: gradients are scaled to at most this global norm; None never.

    Raises:
      ValueError: an unknown name, or a weight decay with Adam.
    """
    if name == "adamw":
        update = optax.adamw(schedule, b1=b1, b2=b2, eps=eps, weight_decay=weight_decay)
    elif name == "adam":
        if weight_decay:
            raise ValueError(f"weight_decay is {weight_decay} but Adam has none; use 'adamw'.")
        update = optax.adam(schedule, b1=b1, b2=b2, eps=eps)
    else:
        raise ValueError(f"The optimizer '{name}' is neither adam nor adamw.")
    if clip_norm is None:
        return update
    return optax.chain(optax.clip_by_global_norm(clip_norm), update)


class Ema(NamedTuple):
    """Several averages side by side, as one dict name -> params."""

    init: Callable[[PyTree], dict[str, PyTree]]  # params -> copies of them
    update: Callable[[dict[str, PyTree], PyTree, Array], dict[str, PyTree]]  # (ema, params, step)


def fixed_decay(decay: float) -> Schedule:
    """beta = decay at every step (DiT: 0.9999)."""
    return lambda step: jnp.float32(decay)


def half_life(images: float, batch_size: int, ramp: float = 0.05) -> Schedule:
    """beta = 0.5^(batch / min(half-life, ramp * images seen)) (EDM, Karras et al. 2022).

    Args:
      images: half-life in images.
      batch_size: images a step.
      ramp: early on the half-life is this fraction of the images seen so far.
    """

    def beta(step: Array) -> Array:
        seen = (step + 1) * jnp.float32(batch_size)
        return 0.5 ** (batch_size / jnp.minimum(images, ramp * seen))

    return beta


def power_function(std: float) -> Schedule:
    """beta = (1 - 1/n)^(gamma + 1) at the n-th step (EDM2, Karras et al. 2024, section 3.1).

    Args:
      std: relative width, see `cdt.training.posthoc_ema`.
    """
    exponent = gamma(std) + 1.0
    # By log1p, as float32 knows 1 - 1/n to a few per cent of 1/n only, after a million steps.
    return lambda step: jnp.exp(exponent * jnp.log1p(-1.0 / (step + 1)))


def ema(decays: Mapping[str, Schedule]) -> Ema:
    """Averages that start as copies of the weights: avg <- beta avg + (1 - beta) params.

    Args:
      decays: name -> (int32 step index -> beta).
    """

    def init(params: PyTree) -> dict[str, PyTree]:
        # Copies: the train step donates params and averages, which must not share buffers.
        return {name: jax.tree.map(jnp.copy, params) for name in decays}

    def update(averages: dict[str, PyTree], params: PyTree, step: Array) -> dict[str, PyTree]:
        def one(average: PyTree, beta: Array) -> PyTree:
            return jax.tree.map(lambda a, p: a + (1.0 - beta) * (p - a), average, params)

        return {name: one(averages[name], decay(step)) for name, decay in decays.items()}

    return Ema(init, update)
