"""Config -> objects. The only place that knows a config, and the only tables from names to
constructors; everything below takes functions and arrays."""

from cdt.from_config.choices import (
    intervals,
    keep_every,
    profiled_steps,
    steps,
    steps_per_dispatch,
    stops_where_unsaved,
)
from cdt.from_config.conditions import sample_captions, sample_condition
from cdt.from_config.datasets import data, examples, source, validation_batch
from cdt.from_config.difficulty import Difficulty, difficulty
from cdt.from_config.generation import feature_space, sampler
from cdt.from_config.latent_space import autoencoder_sha256, encoder, latent_shape, scaling_record
from cdt.from_config.models import (
    Model,
    attention_heads,
    dit,
    example_loss,
    model,
    network_at,
    training_loss,
)
from cdt.from_config.optimization import (
    Training,
    ema_decays,
    ema_name,
    evaluated_emas,
    mesh,
    posthoc_std,
    power_name,
    training,
)
from cdt.from_config.timesteps import open_all_at, timestep_sampler

__all__ = [
    "Difficulty", "Model", "Training", "attention_heads", "autoencoder_sha256", "data",
    "difficulty", "dit", "ema_decays", "ema_name", "encoder", "evaluated_emas", "example_loss",
    "examples", "feature_space", "intervals", "keep_every", "latent_shape", "mesh", "model",
    "network_at", "open_all_at", "posthoc_std", "power_name", "profiled_steps",
    "sample_captions", "sample_condition", "sampler", "scaling_record", "source", "steps",
    "steps_per_dispatch", "stops_where_unsaved", "timestep_sampler", "training",
    "training_loss", "validation_batch",
]  # fmt: skip
