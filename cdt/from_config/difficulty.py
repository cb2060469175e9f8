"""Config -> the difficulty study."""

from typing import NamedTuple

import numpy as np
from ml_collections import ConfigDict

from cdt.difficulty.convergence import ClusterPrograms, make_programs
from cdt.diffusion.process import Process
from cdt.from_config.choices import steps
from cdt.from_config.models import Model, example_loss, training_loss
from cdt.from_config.optimization import check_batch, optimizer, step_options
from cdt.from_config.timesteps import cluster_edges


class Difficulty(NamedTuple):
    """What the study runs."""

    programs: ClusterPrograms  # not jitted
    edges: np.ndarray  # f32[N+1]
    process: Process


def difficulty(config: ConfigDict, model: Model, num_devices: int, num_examples: int) -> Difficulty:
    """One model per cluster of `config.curriculum`, trained by the run's optimizer for
    `difficulty.duration`."""
    check_batch(config, num_devices)
    duration = steps(config, "difficulty.duration", num_examples)
    tx, _ = optimizer(config, num_examples, duration)
    edges = cluster_edges(config, model.process)
    losses = training_loss(config, model), example_loss(model)
    options = step_options(config, model)
    programs = make_programs(*losses, model.init, tx, edges, config.seed, options)
    return Difficulty(programs, edges, model.process)
