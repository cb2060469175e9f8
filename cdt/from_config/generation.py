"""Config -> the sampler of a model, and the feature space in which samples are evaluated."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np
from jax import Array
from ml_collections import ConfigDict

from cdt.devices.compilation import compiler_options
from cdt.diffusion.denoiser import Condition, Network, make_denoiser
from cdt.diffusion.guidance import classifier_free_guidance
from cdt.diffusion.pixels import to_uint8
from cdt.diffusion.process import Process
from cdt.errors import UserError
from cdt.evals.efficientnet_lite import efficientnet_lite0
from cdt.evals.features import FeatureFn, pixels
from cdt.evals.inception import inception
from cdt.from_config.choices import at_least, choose, named, options
from cdt.from_config.latent_space import decoder
from cdt.from_config.models import Model, network_at
from cdt.from_config.optimization import mesh
from cdt.sampling import grids
from cdt.sampling.ancestral import ancestral
from cdt.sampling.ddim import ddim
from cdt.sampling.dpm_solver import dpm_solver
from cdt.sampling.euler import euler
from cdt.sampling.euler_maruyama import euler_maruyama
from cdt.sampling.heun import heun
from cdt.sampling.noise import initial_noise, keyed_noise

PyTree = Any

FAMILIES = ("ddpm", "edm", "flow")


class SamplerSpec(NamedTuple):
    """The argument of the builder of a sampler."""

    process: Process
    steps: int
    levels: np.ndarray  # f64[steps + 1], the usual grid of the family, noisiest first


# (denoise, process, levels, x, noise) -> x0, see `cdt.sampling`
RunSampler = Callable[..., Array]
BuildSampler = Callable[..., tuple[np.ndarray, RunSampler]]  # (spec, **options) -> levels, run


def one_a_step(steps: int) -> int:
    """Return the evaluations of the network for one image, for a sampler with one in each step."""
    return steps


class Sampler(NamedTuple):
    """A sampler, the noise families that it fits, and its cost."""

    build: BuildSampler
    families: tuple[str, ...] = FAMILIES
    evaluations: Callable[[int], int] = one_a_step  # steps -> evaluations of the network


class FeatureSpec(NamedTuple):
    """The argument of the builder of a feature space."""

    batch_size: int  # images through the network at a time
    weights: str | None  # `config.evaluate.weights`, its file; None: the default place


# Each is called as (spec, **options), with the options of `config.sample.<name>`.
# Heun and Euler need a derivative in the level, which the discrete family (ddpm) does not have.
# Euler-Maruyama solves the SDE of flow matching; the other families have their own stochastic
# samplers.
SAMPLERS = {
    "ancestral": Sampler(lambda spec: (spec.levels, ancestral)),
    "ddim": Sampler(lambda spec, eta: _ddim(spec, eta)),
    "dpm_solver": Sampler(lambda spec: (spec.levels, dpm_solver)),
    "heun": Sampler(
        lambda spec, **churn: _heun(spec, **churn), ("edm", "flow"), lambda steps: 2 * steps - 1
    ),
    "euler": Sampler(lambda spec: (spec.levels, euler), ("edm", "flow")),
    "euler_maruyama": Sampler(
        lambda spec, last_step: (
            grids.uniform_times_to(spec.steps, last_step),
            euler_maruyama,
        ),
        ("flow",),
    ),
}
# Each is called as (evaluation, **options), with the options of `config.evaluate.<name>`.
FEATURES: dict[str, Callable[..., FeatureFn]] = {
    "pixels": lambda evaluation: pixels,
    "efficientnet-lite0": lambda evaluation: efficientnet_lite0(batch_size=evaluation.batch_size),
    "inception": lambda evaluation: inception(evaluation.weights, batch_size=evaluation.batch_size),
}


def sampler(config: ConfigDict, model: Model) -> Callable[[PyTree, Array, Condition], Array]:
    """Return sample(params, indices int32[B], condition) -> uint8[B, H, W, C], jitted.

    Image i depends only on `sample.seed`, i and its condition, not on the batch or the devices.

    Raises:
      UserError: see `check_sampling`.
    """
    check_sampling(config, model)
    c = config.sample
    sample_levels, run = _levels_and_sampler(config, model.process)
    guided, interval = c.guidance != 1.0, tuple(c.guidance_interval)

    def sample(params: PyTree, indices: Array, condition: Condition) -> Array:
        network = network_at(model, params)

        def plain(x: Array, level: Array) -> Array:
            return network(x, level, condition)

        at: Network = plain
        if guided:
            at = classifier_free_guidance(
                network, model.process, condition, model.null, c.guidance,
                None if interval == (0.0, 1.0) else interval, c.guidance_channels or None,
            )  # fmt: skip
        denoise = make_denoiser(at, model.process, model.prediction, model.learn_variance, c.clip)
        keys = jax.vmap(functools.partial(jax.random.fold_in, jax.random.key(c.seed)))(indices)
        noise = keyed_noise(keys, model.image_shape)
        x = initial_noise(model.process, sample_levels, noise)
        return run(denoise, model.process, sample_levels, x, noise)

    jit = functools.partial(jax.jit, compiler_options=compiler_options())
    if config.data.name != "latents":
        return jit(lambda *arguments: to_uint8(sample(*arguments)))
    # Two programs: the network's memory is free again while images are decoded.
    sample, decode = jit(sample), decoder(config, mesh(config))
    return lambda *arguments: decode(sample(*arguments))


def check_sampling(config: ConfigDict, model: Model) -> None:
    """Check the sampler and the guidance of the section `sample`.

    Raises:
      UserError: a value is out of range or does not fit the model.
    """
    c = config.sample
    for key in ("sample.num", "sample.batch_size", "sample.steps"):
        at_least(config, key, 1)
    _levels_and_sampler(config, model.process)
    if c.guidance != 1.0 and not model.null:
        raise UserError(
            f"config.sample.guidance is {c.guidance}, but the model is unconditional "
            "(config.model.num_classes is 0); set it to 1."
        )
    if not 0 <= c.guidance_channels <= model.image_shape[-1]:
        raise UserError(
            f"config.sample.guidance_channels is {c.guidance_channels}; it must be 0 (all) or at "
            f"most {model.image_shape[-1]} (config.data.channels)."
        )
    interval = tuple(c.guidance_interval)
    if len(interval) != 2 or not 0.0 <= interval[0] < interval[1] <= 1.0:
        raise UserError(
            f"config.sample.guidance_interval is {interval}; it must be two noise levels u with "
            "0 <= low < high <= 1, such as (0.2, 0.8)."
        )


def evaluations(config: ConfigDict) -> int:
    """Return the evaluations of the network for one image; guidance counts twice."""
    c = config.sample
    once = choose("sample.sampler", c.sampler, SAMPLERS).evaluations(c.steps)
    return once * (2 if c.guidance != 1.0 else 1)


def _levels_and_sampler(config: ConfigDict, process: Process) -> tuple[np.ndarray, RunSampler]:
    """The grid of levels and the sampler with its options bound."""
    c = config.sample
    chosen = choose("sample.sampler", c.sampler, SAMPLERS)
    if process.name not in chosen.families:
        fitting = [name for name, other in SAMPLERS.items() if process.name in other.families]
        raise UserError(
            f"config.sample.sampler is '{c.sampler}', which does not fit the family "
            f"'{process.name}' (config.process.name); it must be one of {', '.join(fitting)}."
        )
    with named("sample"):
        if process.name == "edm":
            levels = grids.karras_sigmas(c.steps, c.sigma_min, c.sigma_max, c.rho)
        elif process.name == "flow":
            levels = grids.uniform_times(c.steps)
        else:
            levels = grids.rounded_timesteps(config.process.num_timesteps, c.steps)
        spec = SamplerSpec(process, c.steps, levels)
        return chosen.build(spec, **options(config, "sample", c.sampler))


def _ddim(spec: SamplerSpec, eta: float) -> tuple[np.ndarray, RunSampler]:
    if not 0 <= eta <= 1:
        raise UserError(f"config.sample.ddim.eta is {eta}; it must lie in [0, 1].")
    num_levels = spec.process.num_levels
    levels = grids.strided_timesteps(num_levels, spec.steps) if num_levels else spec.levels
    return levels, functools.partial(ddim, eta=eta)


def _heun(spec: SamplerSpec, S_churn: float, **churn: Any) -> tuple[np.ndarray, RunSampler]:
    if S_churn < 0 or (S_churn > 0 and spec.process.name != "edm"):
        raise UserError(
            f"config.sample.heun.S_churn is {S_churn} and config.process.name is "
            f"'{spec.process.name}'; it must be 0, or positive with the family 'edm'."
        )
    return spec.levels, functools.partial(heun, S_churn=S_churn, **churn)


def feature_space(config: ConfigDict) -> FeatureFn:
    """Return the feature function in whose space evaluation compares images."""
    for key in ("evaluate.num", "evaluate.batch_size"):
        at_least(config, key, 1)
    c = config.evaluate
    build = choose("evaluate.features", c.features, FEATURES)
    spec = FeatureSpec(c.batch_size, c.weights or None)
    return build(spec, **options(config, "evaluate", c.features))
