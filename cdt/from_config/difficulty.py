"""Config -> the programs of the difficulty study."""

from typing import NamedTuple

import numpy as np
from ml_collections import ConfigDict

from cdt.difficulty.convergence import ClusterPrograms, make_programs
from cdt.diffusion.process import Process
from cdt.from_config.models import Model, example_loss, training_loss
from cdt.from_config.optimization import check_batch, optimizer, step_options
from cdt.from_config.timesteps import cluster_edges


class Difficulty(NamedTuple):
    """The programs of the study and what they are built from."""

    programs: ClusterPrograms  # not jitted
    edges: np.ndarray  # f32[N+1]
    process: Process


def difficulty(config: ConfigDict, model: Model, num_devices: int, num_examples: int) -> Difficulty:
    """Build the programs that train one model for each cluster of `config.curriculum`.

    The models are trained with the optimizer of the run for `difficulty.duration`.
    """
    check_batch(config, num_devices)
    tx, _ = optimizer(config, num_examples, "difficulty.duration")
    edges = cluster_edges(config, model.process)
    losses = training_loss(config, model), example_loss(model)
    options = step_options(config, model)
    programs = make_programs(*losses, model.init, tx, edges, config.seed, options)
    return Difficulty(programs, edges, model.process)
