"""Config -> where in the noise coordinate u a run trains."""

import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from cdt.curriculum import clusters, pacing
from cdt.curriculum.sampler import Order, curriculum
from cdt.diffusion.loss_weights import x0_error_weight
from cdt.diffusion.prediction import Prediction
from cdt.diffusion.process import Process
from cdt.errors import UserError
from cdt.from_config.choices import at_least, choose, steps
from cdt.from_config.models import Model, loss_weight, speed_noise_variances
from cdt.timesteps.base import Density, TimestepSampler
from cdt.timesteps.independent import independent
from cdt.timesteps.info_noise import info_noise, log_s_bins
from cdt.timesteps.logit_normal import logit_normal
from cdt.timesteps.second_moment import second_moment
from cdt.timesteps.speed import speed
from cdt.timesteps.two_phase import two_phase
from cdt.timesteps.uniform import uniform

EDGES = {
    "uniform": lambda c, process: clusters.uniform_edges(c.num_clusters),
    "snr": lambda c, process: clusters.snr_edges(
        process.log_snr, c.num_clusters, process.num_levels
    ),
    "custom": lambda c, process: clusters.custom_edges(c.edges),
}
DENSITIES = {
    "uniform": lambda config, process, prediction: uniform(),
    "logit_normal": lambda config, process, prediction: _logit_normal(config),
    "second_moment": lambda config, process, prediction: second_moment(config.timesteps.num_bins),
    "info_noise": lambda config, process, prediction: _info_noise(config, process, prediction),
}
TIMESTEPS = ("curriculum", "two_phase", "speed", *DENSITIES)
PACINGS = ("patience", "fixed")


def open_all_at(config: ConfigDict, num_examples: int) -> int:
    """The absolute step from which a run that starts with this config draws from the whole of u
    for good: what `timesteps.max_share` means, or `timesteps.switch_share` for "two_phase"."""
    key = "switch_share" if config.timesteps.name == "two_phase" else "max_share"
    share = config.timesteps[key]
    if not 0.0 < share <= 1.0:
        raise UserError(f"config.timesteps.{key} is {share}; it must lie in (0, 1].")
    return round(share * steps(config, "train.duration", num_examples))


def cluster_edges(config: ConfigDict, process: Process) -> np.ndarray:
    """f32[N+1]: the edges of the clusters in u."""
    c = config.timesteps
    if process.num_levels and c.num_clusters > process.num_levels and c.clusters != "custom":
        raise UserError(
            f"config.timesteps.num_clusters is {c.num_clusters}; a process of "
            f"{process.num_levels} timesteps has room for at most that many: give fewer."
        )
    return clusters.edge_table(
        choose("timesteps.clusters", c.clusters, EDGES)(c, process), process.num_levels
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
    config: ConfigDict, model: Model, open_all_at: int
) -> tuple[TimestepSampler, np.ndarray]:
    """The timestep sampler, and the f32[N+1] edges of the clusters that statistics are kept for."""
    c, process = config.timesteps, model.process
    choose("timesteps.name", c.name, TIMESTEPS)
    edges = cluster_edges(config, process)
    if c.name == "two_phase":
        return two_phase(
            independent(_logit_normal(config)), independent(uniform()), open_all_at
        ), edges
    if c.name == "speed":
        return speed(speed_noise_variances(config, process), c.speed_tau, c.speed_k), edges
    if c.name in DENSITIES:
        return independent(DENSITIES[c.name](config, process, model.prediction)), edges

    if c.density == "speed":
        raise UserError(
            "config.timesteps.density is 'speed', whose duals leave what the curriculum has "
            "opened; give it as config.timesteps.name, or choose another density."
        )
    density = choose("timesteps.density", c.density, DENSITIES)(config, process, model.prediction)
    num_stages = len(edges) - 1
    if choose("timesteps.pacing", c.pacing, PACINGS) == "patience":
        at_least(config, "timesteps.max_stage_steps", 0)
        paced = pacing.patience(
            c.patience, num_stages, c.smoothing, c.min_delta, c.max_stage_steps or None,
            open_all_at,
        )  # fmt: skip
    else:
        paced = pacing.fixed(c.steps_per_stage, num_stages, open_all_at)
    return curriculum(density, edges, paced, _order(c.order), config.seed), edges


def _logit_normal(config: ConfigDict) -> Density:
    return logit_normal(config.timesteps.logit_mean, config.timesteps.logit_std)


def _info_noise(config: ConfigDict, process: Process, prediction: Prediction) -> Density:
    if config.loss.weight == "uncertainty":
        raise UserError(
            "config.timesteps 'info_noise' divides by the loss weight, which config.loss.weight = "
            "'uncertainty' learns; choose another of the two."
        )
    knots, log_s = log_s_bins(process.log_snr, config.timesteps.num_bins)
    level = process.level(jnp.asarray((knots[1:] + knots[:-1]) / 2))
    weight = loss_weight(config, process, prediction)
    x0_weight = x0_error_weight(process, prediction)(level) * weight(level)
    return info_noise(knots, log_s, np.asarray(x0_weight, np.float64))


def _order(text: str) -> Order:
    """A name, or the numbers of "3,1,2"."""
    try:
        return [int(number) for number in text.split(",")]
    except ValueError:
        return text
