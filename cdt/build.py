"""Config -> objects. The only place that knows a config, and the only tables from names to
constructors; everything below takes functions and arrays."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from ml_collections import ConfigDict

from cdt import optim, sharding
from cdt.config import duration, nearest
from cdt.curriculum import clusters, pacing
from cdt.curriculum.sampler import curriculum
from cdt.data import sources
from cdt.diffusion import prediction as predictions
from cdt.diffusion import process as processes
from cdt.diffusion import schedules
from cdt.diffusion.denoiser import make_denoiser
from cdt.diffusion.guidance import classifier_free_guidance
from cdt.diffusion.loss import make_example_loss, make_loss
from cdt.diffusion.prediction import Prediction
from cdt.diffusion.process import Process, per_example
from cdt.errors import UserError
from cdt.evals import features
from cdt.models.dit import DiT, named_dit
from cdt.sampling import levels
from cdt.sampling.ancestral import ancestral
from cdt.sampling.ddim import ddim
from cdt.sampling.euler import euler
from cdt.sampling.heun import heun
from cdt.sampling.noise import initial_noise
from cdt.step import ExampleLoss, make_init, make_train_step
from cdt.timesteps.base import TimestepSampler
from cdt.timesteps.independent import independent
from cdt.timesteps.uniform import uniform

PyTree = Any

SOURCES = {
    "digits": lambda config, split: sources.digits(split),
    "mock": lambda config, split: sources.mock(
        split, config.data.image_size, config.data.channels, config.model.num_classes or None,
        size=512 if split == config.data.train_split else 128,
    ),
    "npz": lambda config, split: sources.npz(config.data.path, split),
    "tfds": lambda config, split: sources.tfds(config.data.path, split),
}  # fmt: skip
SCHEDULES = {"linear": schedules.linear, "cosine": schedules.cosine}
PATHS = {"linear": schedules.linear_path, "gvp": schedules.gvp_path}
PROCESSES = {
    "flow": lambda c: processes.flow(choose("process.path", c.path, PATHS)()),
    "ddpm": lambda c: processes.ddpm(
        choose("process.schedule", c.schedule, SCHEDULES)(c.num_timesteps)
    ),
    "edm": lambda c: processes.edm(c.p_mean, c.p_std),
}
DDPM_PREDICTIONS = {
    "eps": lambda process: predictions.eps(),
    "x0": lambda process: predictions.x0(),
    "v": predictions.v,
}
DTYPES = {"float32": jnp.float32, "bfloat16": jnp.bfloat16}
MODELS = ("dit",)
EDGES = {
    "uniform": lambda c, process: clusters.uniform_edges(c.num_clusters),
    "snr": lambda c, process: clusters.snr_edges(
        process.log_snr, c.num_clusters, process.num_levels
    ),
    "custom": lambda c, process: clusters.custom_edges(c.edges),
}
TIMESTEPS = ("curriculum", "uniform")
PACINGS = ("patience", "fixed")
# Heun and Euler need a derivative in the level, which the discrete family has not.
SAMPLERS = {
    "ancestral": (ancestral, ("ddpm", "edm", "flow")),
    "ddim": (ddim, ("ddpm", "edm", "flow")),
    "heun": (heun, ("edm", "flow")),
    "euler": (euler, ("edm", "flow")),
}
FEATURES = {"pixels": features.pixels}


def choose(key: str, value: str, table):
    """The entry of a table (or the name itself, of a tuple of names) that a config names."""
    if value not in table:
        raise UserError(f"config.{key} is '{value}'; {nearest(value, table)}")
    return table[value] if isinstance(table, dict) else value


def _at_least(config: ConfigDict, key: str, least) -> None:
    section, _, name = key.rpartition(".")
    value = config[section][name] if section else config[name]
    if value < least:
        raise UserError(f"config.{key} is {value}; it must be at least {least}.")


# --- data -------------------------------------------------------------------------------------


def data(config: ConfigDict) -> tuple[sources.Source, sources.Source]:
    """The training and the held-out source, checked against the config."""
    open_source = choose("data.name", config.data.name, SOURCES)
    train = open_source(config, config.data.train_split)
    test = open_source(config, config.data.test_split)
    size = (config.data.image_size, config.data.image_size, config.data.channels)
    for source in (train, test):
        if tuple(source.shape) != size:
            raise UserError(
                f"The images of {source.name} are {'x'.join(map(str, source.shape))}, but "
                f"config.data.image_size and channels say {'x'.join(map(str, size))}."
            )
        known = config.model.num_classes
        if known and source.num_classes is None:
            raise UserError(
                f"config.model.num_classes is {known}, but {source.name} has no labels; set it to "
                "0 for an unconditional model."
            )
        if known and source.num_classes > known:
            raise UserError(
                f"{source.name} has {source.num_classes} classes, more than the model's "
                f"{known}; set config.model.num_classes to {source.num_classes}."
            )
    return train, test


# --- the diffusion model ----------------------------------------------------------------------


class Model(NamedTuple):
    """A network together with the process it denoises."""

    process: Process
    prediction: Prediction
    learn_variance: bool
    init: Callable[[Array], PyTree]  # PRNG key -> params f32
    apply: Callable  # (params, x, time, label, key) -> raw output
    image_shape: tuple[int, int, int]
    num_classes: int  # 0: unconditional; the null label is num_classes


def model(config: ConfigDict) -> Model:
    """Builds the process, its prediction and the network."""
    c = config.process
    _at_least(config, "process.num_timesteps", 1)
    process = choose("process.name", c.name, PROCESSES)(c)
    if c.name == "ddpm":
        prediction = choose("process.prediction", c.prediction, DDPM_PREDICTIONS)(process)
    elif c.name == "edm":
        prediction = predictions.edm(c.sigma_data)
    else:
        prediction = predictions.velocity(process)
    if c.learn_variance and c.name != "ddpm":
        raise UserError(
            f"config.process.learn_variance needs the family 'ddpm', not '{c.name}'; set it to "
            "False."
        )

    image_shape = (config.data.image_size, config.data.image_size, config.data.channels)
    network = _network(config, out_channels=config.data.channels * (2 if c.learn_variance else 1))
    conditional = config.model.num_classes > 0

    def label_of(label):
        return label if conditional else None

    def init(key):
        x = jnp.zeros((1, *image_shape))
        return network.init(key, x, jnp.zeros(1), label_of(jnp.zeros(1, jnp.int32)))["params"]

    def apply(params, x, time, label, key):
        rngs = None if key is None else {"dropout": key}
        return network.apply({"params": params}, x, time, label_of(label), rngs=rngs)

    return Model(
        process, prediction, c.learn_variance, init, apply, image_shape, config.model.num_classes
    )


def _network(config: ConfigDict, out_channels: int) -> DiT:
    c = config.model
    choose("model.name", c.name, MODELS)
    for key in ("model.patch_size", "model.hidden_size", "model.depth", "model.num_heads"):
        _at_least(config, key, 1)
    _at_least(config, "model.num_classes", 0)
    options = dict(
        num_classes=c.num_classes or None,
        out_channels=out_channels,
        dtype=choose("model.dtype", c.dtype, DTYPES),
        unroll=c.unroll,
        remat=c.remat,
    )
    if c.size:
        return named_dit(c.size, **options)
    return DiT(
        patch_size=c.patch_size,
        hidden_size=c.hidden_size,
        depth=c.depth,
        num_heads=c.num_heads,
        **options,
    )


def example_loss(model: Model) -> ExampleLoss:
    """The loss that training and validation share."""
    loss = make_loss(model.process, model.prediction, model.learn_variance)
    return make_example_loss(model.apply, model.process, model.prediction, loss)


# --- training ---------------------------------------------------------------------------------


class Training(NamedTuple):
    """What the loop runs."""

    init: Callable  # PRNG key -> TrainState
    step: Callable  # (TrainState, batch) -> (TrainState, metrics), not jitted
    schedule: Callable  # int32 optimizer step -> learning rate
    edges: np.ndarray  # f32[N+1]
    num_stages: int  # 1 without a curriculum


def mesh(config: ConfigDict) -> jax.sharding.Mesh:
    """The mesh over all devices."""
    return sharding.make_mesh(config.mesh.data, config.mesh.fsdp)


def steps(config: ConfigDict, key: str, num_examples: int, least: int = 1) -> int:
    """The duration under a config key such as "train.duration", in steps, at least `least`."""
    section, _, name = key.partition(".")
    text = config[section][name]
    result = duration(text, key, config.train.batch_size, num_examples)
    if result < least:
        raise UserError(f"config.{key} is '{text}', which is no step at all; give at least one.")
    return result


def training(
    config: ConfigDict, model: Model, num_devices: int, num_examples: int, open_all_at: int
) -> Training:
    """Builds the train step and everything it needs.

    Args:
      config: the run's.
      model: from `model`.
      num_devices: over which every microbatch must divide.
      num_examples: size of the training set.
      open_all_at: absolute step from which every cluster is open; of a resumed run the one it
        started with, see `open_all_at`.
    """
    for key in ("train.max_bad_steps", "train.accumulate", "train.batch_size"):
        _at_least(config, key, 1)
    if config.train.batch_size % (num_devices * config.train.accumulate):
        raise UserError(
            f"config.train.batch_size is {config.train.batch_size}; it must be divisible by the "
            f"{num_devices} device(s) times {config.train.accumulate} microbatch(es) of a step."
        )
    c = config.optim
    schedule = optim.learning_rate(
        c.schedule, c.lr, steps(config, "optim.warmup", num_examples, least=0),
        steps(config, "train.duration", num_examples),
    )  # fmt: skip
    tx = optim.optimizer(c.name, schedule, c.b1, c.b2, c.eps, c.weight_decay, c.clip_norm or None)
    averages = optim.ema(ema_decays(config))
    timesteps, edges = timestep_sampler(config, model.process, open_all_at)
    if not 0.0 <= config.train.label_dropout <= 1.0:
        raise UserError(
            f"config.train.label_dropout is {config.train.label_dropout}; it must lie in [0, 1]."
        )
    step = make_train_step(
        example_loss(model), tx, averages, timesteps, edges,
        seed=config.seed,
        null_label=model.num_classes,
        label_dropout=config.train.label_dropout if model.num_classes else 0.0,
        accumulate=config.train.accumulate,
        log_every=steps(config, "log.every", num_examples),
        max_bad_steps=config.train.max_bad_steps,
    )  # fmt: skip
    init = make_init(model.init, tx, averages, timesteps, len(edges) - 1)
    num_stages = len(edges) - 1 if config.timesteps.name == "curriculum" else 1
    return Training(init, step, schedule, edges, num_stages)


def ema_decays(config: ConfigDict) -> dict[str, optim.Schedule]:
    """Name -> decay of every average: "0.9999", and "500kimg" for half-lives."""
    decays = {}
    for decay in config.ema.decays:
        if not 0.0 <= decay < 1.0:
            raise UserError(f"config.ema.decays has {decay}; a decay must lie in [0, 1).")
        decays[f"{decay:g}"] = optim.fixed_decay(decay)
    for kimg in config.ema.half_lives_kimg:
        if not kimg > 0:
            raise UserError(f"config.ema.half_lives_kimg has {kimg}; it must be positive.")
        decays[f"{kimg:g}kimg"] = optim.half_life(1000 * kimg, config.train.batch_size)
    return decays


def ema_name(config: ConfigDict) -> str:
    """The average to sample from, or "raw" for the parameters themselves."""
    names = [*ema_decays(config), "raw"]
    return choose("sample.ema", config.sample.ema or names[0], tuple(names))


def open_all_at(config: ConfigDict, num_examples: int) -> int:
    """The absolute step that `timesteps.max_share` means for a run that starts with this config."""
    share = config.timesteps.max_share
    if not 0.0 < share <= 1.0:
        raise UserError(f"config.timesteps.max_share is {share}; it must lie in (0, 1].")
    return round(share * steps(config, "train.duration", num_examples))


def timestep_sampler(
    config: ConfigDict, process: Process, open_all_at: int
) -> tuple[TimestepSampler, np.ndarray]:
    """The timestep sampler, and the f32[N+1] edges of the clusters that statistics are kept for."""
    c = config.timesteps
    choose("timesteps.name", c.name, TIMESTEPS)
    if process.num_levels and c.num_clusters > process.num_levels and c.clusters != "custom":
        raise UserError(
            f"config.timesteps.num_clusters is {c.num_clusters}; a process of "
            f"{process.num_levels} timesteps has room for at most that many clusters."
        )
    edges = clusters.edge_table(
        choose("timesteps.clusters", c.clusters, EDGES)(c, process), process.num_levels
    )
    if c.name == "uniform":
        return independent(uniform()), edges
    num_stages = len(edges) - 1
    if choose("timesteps.pacing", c.pacing, PACINGS) == "patience":
        _at_least(config, "timesteps.max_stage_steps", 0)
        paced = pacing.patience(
            c.patience, num_stages, c.smoothing, c.min_delta, c.max_stage_steps or None,
            open_all_at,
        )  # fmt: skip
    else:
        paced = pacing.fixed(c.steps_per_stage, num_stages, open_all_at)
    return curriculum(uniform(), edges, paced, _order(c.order), config.seed), edges


def _order(text: str):
    """A name, or the numbers of "3,1,2"."""
    try:
        return [int(number) for number in text.split(",")]
    except ValueError:
        return text


# --- sampling ---------------------------------------------------------------------------------


def sampler(config: ConfigDict, model: Model) -> Callable[[PyTree, Array, Array], Array]:
    """Returns sample(params, indices int32[B], labels int32[B]) -> uint8[B, H, W, C].

    Image i depends on `sample.seed`, i and its label alone: not on the batch or the devices.
    """
    c = config.sample
    sample_levels, run = _levels_and_sampler(config, model.process)
    guided = c.guidance != 1.0
    if guided and not model.num_classes:
        raise UserError(
            f"config.sample.guidance is {c.guidance}, but the model is unconditional "
            "(config.model.num_classes = 0); set it to 1."
        )
    interval = tuple(c.guidance_interval)
    if len(interval) != 2 or not 0.0 <= interval[0] < interval[1] <= 1.0:
        raise UserError(
            f"config.sample.guidance_interval is {interval}; it must be two numbers with "
            "0 <= lo < hi <= 1, in u."
        )

    def sample(params, indices, labels):
        def network(x, level, labels):
            scaled = per_example(model.prediction.c_in(level), x) * x
            return model.apply(params, scaled, model.process.time_input(level), labels, None)

        if guided:
            denoised = classifier_free_guidance(
                network, model.process, labels, model.num_classes, c.guidance,
                None if interval == (0.0, 1.0) else interval,
            )  # fmt: skip
        else:
            denoised = functools.partial(network, labels=labels)
        denoise = make_denoiser(
            denoised, model.process, model.prediction, model.learn_variance, c.clip
        )
        keys = jax.vmap(functools.partial(jax.random.fold_in, jax.random.key(c.seed)))(indices)
        x = initial_noise(model.process, sample_levels, keys, model.image_shape)
        x0 = run(denoise, model.process, sample_levels, x, keys)
        return jnp.clip(127.5 * x0 + 128.0, 0.0, 255.0).astype(jnp.uint8)

    return sample


def _levels_and_sampler(config: ConfigDict, process: Process):
    """The grid of levels and the sampler with its options bound."""
    c = config.sample
    run, families = choose("sample.sampler", c.sampler, SAMPLERS)
    if process.name not in families:
        fitting = [name for name, (_, fits) in SAMPLERS.items() if process.name in fits]
        raise UserError(
            f"config.sample.sampler '{c.sampler}' does not fit the family '{process.name}', whose "
            f"levels are discrete; use {' or '.join(fitting)}."
        )
    if process.name == "edm":
        grid = levels.karras(c.steps, c.sigma_min, c.sigma_max, c.rho)
    elif process.name == "flow":
        grid = levels.uniform(c.steps)
    elif c.sampler == "ddim":
        grid = levels.strided(process.num_levels, c.steps)
    else:
        grid = levels.rounded(process.num_levels, c.steps)
    if c.churn < 0 or (c.churn > 0 and (c.sampler != "heun" or process.name != "edm")):
        raise UserError(
            f"config.sample.churn is {c.churn} with the sampler '{c.sampler}' and the family "
            f"'{process.name}'; only 'heun' on 'edm' churns, by 0 or more: set it to 0."
        )
    if c.sampler == "ddim":
        run = functools.partial(run, eta=c.eta)
    elif c.churn:
        run = functools.partial(
            run, S_churn=c.churn, S_min=c.churn_min, S_max=c.churn_max, S_noise=c.churn_noise
        )
    return grid, run


def feature_space(config: ConfigDict):
    """The feature function that evaluation compares images in."""
    return choose("evaluate.features", config.evaluate.features, FEATURES)
