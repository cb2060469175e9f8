"""Config -> mesh, optimizer, EMAs and the train step."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import numpy as np
import optax
from jax import Array
from ml_collections import ConfigDict

from cdt.devices import sharding
from cdt.errors import UserError
from cdt.from_config.choices import at_least, choose, named, steps
from cdt.from_config.models import Model, training_loss
from cdt.from_config.timesteps import timestep_sampler, validation_edges
from cdt.training import optim
from cdt.training.augment import make_augment
from cdt.training.optim import Schedule
from cdt.training.posthoc_ema import gamma
from cdt.training.state import TrainState
from cdt.training.step import StepOptions, TrainStep, make_init, make_train_step

_POSTHOC = "posthoc"  # prefix of the name of an EMA that is combined from stored ones


class Training(NamedTuple):
    """The functions and arrays that the training loop needs."""

    init: Callable[[Array], TrainState]  # PRNG key -> state
    step: TrainStep  # not jitted
    schedule: Schedule  # int32 optimizer step -> learning rate
    validation_edges: np.ndarray  # f32[M+1]
    num_stages: int  # 1 without a curriculum


def mesh(config: ConfigDict) -> jax.sharding.Mesh:
    """Return the mesh over all devices of all processes."""
    return sharding.make_mesh(config.mesh.data, config.mesh.fsdp)


def training(
    config: ConfigDict, model: Model, num_devices: int, num_examples: int, open_all_at: int
) -> Training:
    """Build the train step and everything it needs.

    Args:
      config: of the run.
      model: from `model`.
      num_devices: number of devices, which must divide every microbatch.
      num_examples: size of the training set.
      open_all_at: from `open_all_at`; in a resumed run, the step with which the run started.

    Raises:
      UserError: a value is out of range or does not fit the others.
    """
    check_batch(config, num_devices)
    tx, schedule = optimizer(config, num_examples)
    emas = optim.ema(ema_decays(config))
    timesteps, edges = timestep_sampler(config, model.process, model.prediction, open_all_at)
    options = step_options(config, model)._replace(
        log_every=steps(config, "log.every", num_examples),
        augment=make_augment(config.train.augment) if config.train.augment else None,
    )
    loss = training_loss(config, model)
    step = make_train_step(loss, tx, emas, timesteps, edges, config.seed, options)
    validated = validation_edges(config, model.process)
    init = make_init(model.init, tx, emas, timesteps, len(edges) - 1, len(validated) - 1)
    num_stages = len(edges) - 1 if config.curriculum.enabled else 1
    return Training(init, step, schedule, validated, num_stages)


def check_batch(config: ConfigDict, num_devices: int) -> None:
    """Raise UserError unless the devices divide every microbatch."""
    for key in ("train.max_bad_steps", "train.accumulate", "train.batch_size"):
        at_least(config, key, 1)
    if config.train.batch_size % (num_devices * config.train.accumulate):
        raise UserError(
            f"config.train.batch_size is {config.train.batch_size}; it must be divisible by "
            f"{num_devices} device(s) times {config.train.accumulate} microbatch(es) "
            "(config.train.accumulate)."
        )


def optimizer(
    config: ConfigDict, num_examples: int, duration_key: str = "train.duration"
) -> tuple[optax.GradientTransformation, optim.Schedule]:
    """Return (the optimizer, its learning rate schedule).

    Args:
      config: of the run.
      num_examples: size of the training set.
      duration_key: config key of the length of the training.
    """
    c = config.optim
    for key in ("optim.lr", "optim.weight_decay", "optim.clip_norm"):
        at_least(config, key, 0)
    for key, decay in [("b1", c.b1), ("b2", c.b2)]:
        if not 0.0 <= decay < 1.0:
            raise UserError(f"config.optim.{key} is {decay}; it must lie in [0, 1).")
    if not c.eps > 0.0:
        raise UserError(f"config.optim.eps is {c.eps}; it must be positive.")
    warmup = steps(config, "optim.warmup", num_examples, least=0)
    total = steps(config, duration_key, num_examples)
    if warmup >= total:
        raise UserError(
            f"config.optim.warmup is '{c.warmup}', {warmup} steps; it must be shorter than "
            f"config.{duration_key}, {total} steps: change one of them."
        )
    with named("optim"):
        schedule = optim.learning_rate(c.schedule, c.lr, warmup, total)
        tx = optim.make_optimizer(
            c.name, schedule, c.b1, c.b2, c.eps, c.weight_decay, c.clip_norm or None
        )
    return tx, schedule


def step_options(config: ConfigDict, model: Model) -> StepOptions:
    """Return the options of a train step, for a run and for the difficulty study."""
    dropout = config.train.condition_dropout
    if not 0.0 <= dropout <= 1.0:
        raise UserError(f"config.train.condition_dropout is {dropout}; it must lie in [0, 1].")
    return StepOptions(
        null=model.null or None,
        condition_dropout=dropout,
        accumulate=config.train.accumulate,
        max_bad_steps=config.train.max_bad_steps,
        to_x0=model.to_x0,
    )


def ema_decays(config: ConfigDict) -> dict[str, optim.Schedule]:
    """Return {name: decay} of every EMA; names are "0.9999", "500kimg" or "power0.05"."""
    decays = {}
    for decay in config.ema.decays:
        if not 0.0 <= decay < 1.0:
            raise UserError(f"config.ema.decays contains {decay}; each decay must lie in [0, 1).")
        decays[f"{decay:g}"] = optim.fixed_decay(decay)
    for kimg in config.ema.half_lives_kimg:
        if not kimg > 0:
            raise UserError(
                f"config.ema.half_lives_kimg contains {kimg}; each half-life must be positive."
            )
        decays[f"{kimg:g}kimg"] = optim.half_life(1000 * kimg, config.train.batch_size)
    for std in config.ema.power_stds:
        with named("ema.power_stds"):
            decays[power_name(std)] = optim.power_function(std)
    return decays


def power_name(std: float) -> str:
    """Return the name of the power-function EMA with a relative width."""
    return f"power{std:g}"


def evaluated_emas(config: ConfigDict) -> tuple[str, ...]:
    """Return the names of the EMAs that are evaluated during training."""
    wanted = config.evaluate.emas or (ema_name(config),)
    return tuple(_known_ema(config, "evaluate.emas", name) for name in wanted)


def ema_name(config: ConfigDict) -> str:
    """Return the name of the EMA to sample with, or "raw" for the weights themselves."""
    name = config.sample.ema or next(iter(ema_decays(config)), "raw")
    return _known_ema(config, "sample.ema", name)


def posthoc_std(name: str) -> float | None:
    """Return the relative width of an EMA that is combined from stored ones; None for others."""
    return float(name.removeprefix(_POSTHOC)) if name.startswith(_POSTHOC) else None


def _known_ema(config: ConfigDict, key: str, name: str) -> str:
    """`name`, or UserError if the run neither has nor can combine such an EMA."""
    if not name.startswith(_POSTHOC):
        return choose(key, name, (*ema_decays(config), "raw"))
    try:
        gamma(float(name.removeprefix(_POSTHOC)))
    except ValueError:
        raise UserError(
            f"config.{key} is '{name}'; after '{_POSTHOC}' it must have a relative width between 0 "
            f"and 0.288, such as '{_POSTHOC}0.1'."
        ) from None
    if not config.ema.power_stds:
        raise UserError(
            f"config.{key} is '{name}', but config.ema.power_stds is empty, so the run has nothing "
            "to combine; train with power_stds such as (0.05, 0.1)."
        )
    return name
