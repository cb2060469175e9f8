"""Config -> where in the noise coordinate u a run trains, and which part of u is open."""

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
from cdt.from_config.choices import at_least, choose, options, steps
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
    """What a density or a timestep sampler is built from."""

    process: Process
    prediction: Prediction
    loss_weight: Weight | None  # of the squared error at each native level; None: it is learned
    switch_step: int  # what the option `switch_fraction` stands for, if the method has it


class Method(NamedTuple):
    """A timestep sampler, and the loss weight that belongs to it; both take (spec, **options)."""

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
    """The absolute step from which a run that starts with this config trains as it does to its end:
    every cluster is open (`curriculum.max_fraction`), or the method has switched
    (`density.<name>.switch_fraction`)."""
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
    """f32[N+1]: the edges of the clusters in u."""
    c = config.curriculum
    if process.num_levels and c.num_clusters > process.num_levels and c.spacing != "custom":
        raise UserError(
            f"config.curriculum.num_clusters is {c.num_clusters}; a process of "
            f"{process.num_levels} timesteps has room for at most that many: give fewer."
        )
    return clusters.edge_table(
        choose("curriculum.spacing", c.spacing, EDGES)(c, process), process.num_levels
    )


def validation_edges(config: ConfigDict, process: Process) -> np.ndarray:
    """f32[M+1]: the edges in u of the clusters whose validation loss is measured."""
    at_least(config, "validation.images", 1)
    number = config.validation.clusters
    if number == 0:
        return cluster_edges(config, process)
    at_least(config, "validation.clusters", 0)
    return clusters.edge_table(clusters.uniform_edges(number), process.num_levels)


def timestep_sampler(
    config: ConfigDict, process: Process, prediction: Prediction, open_all_at: int
) -> tuple[TimestepSampler, np.ndarray]:
    """The timestep sampler, and the f32[N+1] edges of the clusters that statistics are kept for."""
    c, name = config.curriculum, config.density.name
    edges = cluster_edges(config, process)
    method = choose("density.name", name, DENSITIES | TIMESTEP_SAMPLERS)
    if isinstance(method, Method) and c.enabled:
        raise UserError(
            f"config.density.name is '{name}', which draws from all noise levels and does not "
            "combine with the curriculum; set config.curriculum.enabled to False, or give "
            f"one of {', '.join(DENSITIES)}."
        )
    spec = _spec(config, process, prediction, open_all_at)
    own = options(config, "density", name)
    if isinstance(method, Method):
        return method.build(spec, **own), edges
    density = method(spec, **own)
    if not c.enabled:
        return independent(density), edges
    return curriculum(
        density, edges, _pacing(config, len(edges) - 1, open_all_at), _order(c.order), config.seed
    ), edges


def loss_weight(
    config: ConfigDict, process: Process, prediction: Prediction
) -> Weight | Uncertainty:
    """The weight of the squared error at each noise level: that of `config.loss`, times the one
    that the timestep sampler brings, if any."""
    chosen = chosen_weight(config, process, prediction)
    name = config.density.name
    method = TIMESTEP_SAMPLERS.get(name)
    if method is None or method.loss_weight is None:
        return chosen
    if isinstance(chosen, Uncertainty):
        raise UserError(
            f"config.density.name is '{name}', which weighs the loss, and config.loss.weight is "
            f"'{config.loss.weight}', which would learn to undo that; change one of them."
        )
    spec = _spec(config, process, prediction, 0)
    own, weight = method.loss_weight(spec, **options(config, "density", name)), chosen
    return lambda level: own(level) * weight(level)


def _spec(
    config: ConfigDict, process: Process, prediction: Prediction, switch_step: int
) -> DensitySpec:
    weight = chosen_weight(config, process, prediction)
    known = None if isinstance(weight, Uncertainty) else weight
    return DensitySpec(process, prediction, known, switch_step)


def _pacing(config: ConfigDict, num_stages: int, open_all_at: int) -> Pacing:
    at_least(config, "curriculum.patience.max_stage_steps", 0)
    build = choose("curriculum.pacing", config.curriculum.pacing, PACINGS)
    return build(config.curriculum, num_stages, open_all_at)


def _info_noise(spec: DensitySpec, num_bins: int) -> Density:
    if spec.loss_weight is None:
        raise UserError(
            "config.density.name is 'info_noise', which divides by the loss weight, and "
            "config.loss.weight is 'uncertainty', which learns it; change one of them."
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
            "config.density.name is 'speed', which needs the family 'ddpm', not "
            f"'{spec.process.name}'; change config.process.name, or choose another density."
        )
    return noise_variances(spec.process)


def _order(text: str) -> Order:
    """A name, or the numbers of "3,1,2"."""
    try:
        return [int(number) for number in text.split(",")]
    except ValueError:
        return text
