"""Config -> objects. The only place that knows a config, and the only tables from names to
constructors; everything below takes functions and arrays."""

from cdt.build.choices import steps
from cdt.build.conditions import sample_condition
from cdt.build.datasets import data, validation_batch
from cdt.build.difficulty import Difficulty, difficulty
from cdt.build.generation import feature_space, sampler
from cdt.build.levels import open_all_at, timestep_sampler
from cdt.build.models import Model, example_loss, model, training_loss
from cdt.build.optimization import (
    Training,
    ema_decays,
    ema_name,
    evaluated_emas,
    mesh,
    training,
)

__all__ = [
    "Difficulty", "Model", "Training", "data", "difficulty", "ema_decays", "ema_name",
    "evaluated_emas", "example_loss", "feature_space", "mesh", "model", "open_all_at",
    "sample_condition", "sampler",
    "steps", "timestep_sampler", "training", "training_loss", "validation_batch",
]  # fmt: skip
