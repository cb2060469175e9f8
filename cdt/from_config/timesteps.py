"""Config -> the timestep sampler: the density of u, the curriculum, and the loss weight."""

from collections.abc import Callable
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from cdt.curriculum import clusters, pacing
from cdt.curriculum.pacing import Pacing
from cdt.curriculum.sampler import Order, curriculum
from cdt.diffusion.loss_weights import Weight, x0_error_weight
from cdt.diffusion.prediction import Prediction
from cdt.diffusion.process import Process, noise_variances
from cdt.diffusion.uncertainty import Uncertainty
from cdt.errors import UserError
from cdt.from_config.choices import at_least, choose, named, options, steps
from cdt.from_config.loss_weights import chosen_weight
from cdt.timesteps.base import Density, TimestepSampler
from cdt.timesteps.independent import independent
from cdt.timesteps.info_noise import info_noise, log_s_bins
from cdt.timesteps.logit_normal import logit_normal
from cdt.timesteps.second_moment import second_moment
from cdt.timesteps.speed import speed, speed_weight
from cdt.timesteps.two_phase import two_phase
from cdt.timesteps.uniform import uniform


class DensitySpec(NamedTuple):
    """The argument of the builder of a density or a timestep sampler."""

    process: Process
    prediction: Prediction
    loss_weight: Weight | None  # factor of the squared error at each native level; None: learned
    switch_step: int  # absolute step of the option `switch_fraction`, if the method has it


class Method(NamedTuple):
    """A timestep sampler and its own loss weight, if any; both builders take (spec, **options)."""

    build: Callable[..., TimestepSampler]
    loss_weight: Callable[..., Weight] | None = None


EDGES = {
    "uniform": lambda c, process: clusters.uniform_edges(c.num_clusters),
    "snr": lambda c, process: clusters.snr_edges(
        process.log_snr, c.num_clusters, process.num_levels
    ),
    "custom": lambda c, process: clusters.custom_edges(c.edges),
}
PACINGS = {
    "patience": lambda c, num_stages, open_all_at: pacing.patience(
        c.patience.steps, num_stages, c.patience.smoothing, c.patience.min_delta,
        c.patience.max_stage_steps or None, open_all_at,
    ),
    "fixed": lambda c, num_stages, open_all_at: pacing.fixed(
        c.fixed.steps_per_stage, num_stages, open_all_at
    ),
}  # fmt: skip
# Each is called as (spec, **options), with the options of `config.density.<name>`.
DENSITIES: dict[str, Callable[..., Density]] = {
    "uniform": lambda spec: uniform(),
    "logit_normal": lambda spec, mean, std: logit_normal(mean, std),
    "second_moment": lambda spec, num_bins: second_moment(num_bins),
    "info_noise": lambda spec, num_bins: _info_noise(spec, num_bins),
}
TIMESTEP_SAMPLERS = {
    "two_phase": Method(lambda spec, **options: _two_phase(spec, **options)),
    "speed": Method(
        lambda spec, tau, k, lam: speed(_speed_variances(spec), tau, k),
        lambda spec, tau, k, lam: speed_weight(_speed_variances(spec), tau, lam),
    ),
}


def open_all_at(config: ConfigDict, num_examples: int) -> int:
    """Return the absolute step from which the sampling of u no longer changes in a new run.

    From this step on every cluster is open (`curriculum.max_fraction`), or the method has switched
    (`density.<name>.switch_fraction`).
    """
    name = config.density.name
    own = options(config, "density", name)
    if config.curriculum.enabled or "switch_fraction" not in own:
        key, fraction = "curriculum.max_fraction", config.curriculum.max_fraction
    else:
        key, fraction = f"density.{name}.switch_fraction", own["switch_fraction"]
    if not 0.0 < fraction <= 1.0:
        raise UserError(f"config.{key} is {fraction}; it must lie in (0, 1].")
    return round(fraction * steps(config, "train.duration", num_examples))


def cluster_edges(config: ConfigDict, process: Process) -> np.ndarray:
    """Return the edges f32[N+1] of the clusters in u."""
    c = config.curriculum
    if c.spacing != "custom":
        at_least(config, "curriculum.num_clusters", 1)
    if process.num_levels and c.num_clusters > process.num_levels and c.spacing != "custom":
        raise UserError(
            f"config.curriculum.num_clusters is {c.num_clusters}; it must be at most "
            f"{process.num_levels} (config.process.num_timesteps)."
        )
    build = choose("curriculum.spacing", c.spacing, EDGES)
    with named("curriculum"):
        return clusters.edge_table(build(c, process), process.num_levels)


def validation_edges(config: ConfigDict, process: Process) -> np.ndarray:
    """Return the edges f32[M+1] in u of the clusters of the validation loss."""
    at_least(config, "validation.images", 1)
    number = config.validation.clusters
    if number == 0:
        return cluster_edges(config, process)
    at_least(config, "validation.clusters", 0)
    return clusters.edge_table(clusters.uniform_edges(number), process.num_levels)


def timestep_sampler(
    config: ConfigDict, process: Process, prediction: Prediction, open_all_at: int
) -> tuple[TimestepSampler, np.ndarray]:
    """Return the timestep sampler and the edges f32[N+1] of the clusters of its statistics."""
    c, name = config.curriculum, config.density.name
    edges = cluster_edges(config, process)
    method = choose("density.name", name, DENSITIES | TIMESTEP_SAMPLERS)
    if isinstance(method, Method) and c.enabled:
        raise UserError(
            f"config.density.name is '{name}', which does not combine with the curriculum because "
            "it always draws from all noise levels; set config.curriculum.enabled to False, or "
            f"config.density.name to one of {', '.join(DENSITIES)}."
        )
    spec = _spec(config, process, prediction, open_all_at)
    own = options(config, "density", name)
    with named(f"density.{name}"):
        if isinstance(method, Method):
            return method.build(spec, **own), edges
        density = method(spec, **own)
    if not c.enabled:
        return independent(density), edges
    pace = _pacing(config, len(edges) - 1, open_all_at)
    with named("curriculum"):
        return curriculum(density, edges, pace, _order(c.order), config.seed), edges


def loss_weight(
    config: ConfigDict, process: Process, prediction: Prediction
) -> Weight | Uncertainty:
    """Return the weight of the squared error at each noise level: that of `config.loss`, times that
    of the timestep sampler, if it has one."""
    chosen = chosen_weight(config, process, prediction)
    name = config.density.name
    method = TIMESTEP_SAMPLERS.get(name)
    if method is None or method.loss_weight is None:
        return chosen
    if isinstance(chosen, Uncertainty):
        raise UserError(
            f"config.density.name is '{name}', which has its own loss weight, but "
            f"config.loss.weight is '{config.loss.weight}', which would learn to cancel it; change "
            "one of them."
        )
    spec, weight = _spec(config, process, prediction, 0), chosen
    with named(f"density.{name}"):
        own = method.loss_weight(spec, **options(config, "density", name))
    return lambda level: own(level) * weight(level)


def _spec(
    config: ConfigDict, process: Process, prediction: Prediction, switch_step: int
) -> DensitySpec:
    weight = chosen_weight(config, process, prediction)
    known = None if isinstance(weight, Uncertainty) else weight
    return DensitySpec(process, prediction, known, switch_step)


def _pacing(config: ConfigDict, num_stages: int, open_all_at: int) -> Pacing:
    at_least(config, "curriculum.patience.max_stage_steps", 0)
    name = config.curriculum.pacing
    build = choose("curriculum.pacing", name, PACINGS)
    length = {"patience": "steps", "fixed": "steps_per_stage"}[name]
    at_least(config, f"curriculum.{name}.{length}", 1)
    with named(f"curriculum.{name}"):
        return build(config.curriculum, num_stages, open_all_at)


def _info_noise(spec: DensitySpec, num_bins: int) -> Density:
    if spec.loss_weight is None:
        raise UserError(
            "config.density.name is 'info_noise', which needs a fixed loss weight, but "
            "config.loss.weight is 'uncertainty', which is learned; change one of them."
        )
    process = spec.process
    knots, log_s = log_s_bins(process.log_snr, num_bins)
    level = process.level(jnp.asarray((knots[1:] + knots[:-1]) / 2))
    x0_weight = x0_error_weight(process, spec.prediction)(level) * spec.loss_weight(level)
    return info_noise(knots, log_s, np.asarray(x0_weight, np.float64))


def _two_phase(
    spec: DensitySpec, mean: float, std: float, switch_fraction: float
) -> TimestepSampler:
    first = independent(logit_normal(mean, std))
    return two_phase(first, independent(uniform()), spec.switch_step)


def _speed_variances(spec: DensitySpec) -> np.ndarray:
    if spec.process.name != "ddpm":
        raise UserError(
            "config.density.name is 'speed', which needs the family 'ddpm', but "
            f"config.process.name is '{spec.process.name}'; change one of them."
        )
    return noise_variances(spec.process)


def _order(text: str) -> Order:
    """The name itself, or the list of numbers of a text such as "3,1,2"."""
    try:
        return [int(number) for number in text.split(",")]
    except ValueError:
        return text
