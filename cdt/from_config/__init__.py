"""Config -> objects: data, network, densities, losses, optimizer, samplers, features.

The tables from names to builders are here, and `cdt.register` adds to them. A builder gets the part
of the config that it needs as a DataSpec, NetworkSpec, DensitySpec (densities and timestep
samplers), LossSpec, SamplerSpec or FeatureSpec. Packages below this one take functions and arrays,
never a config. Every function raises UserError for a value that is out of range or does not fit the
others.
"""

from cdt.from_config.checks import check_config
from cdt.from_config.choices import (
    intervals,
    keep_every,
    profiled_steps,
    steps,
    steps_per_dispatch,
    stops_where_unsaved,
)
from cdt.from_config.conditions import sample_captions, sample_condition
from cdt.from_config.datasets import DataSpec, data, examples, source, validation_batch
from cdt.from_config.difficulty import Difficulty, difficulty
from cdt.from_config.generation import FeatureSpec, SamplerSpec, evaluations, feature_space, sampler
from cdt.from_config.latent_space import autoencoder_sha256, encoder, latent_shape, scaling_record
from cdt.from_config.loss_weights import LossSpec
from cdt.from_config.models import (
    Model,
    NetworkSpec,
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
from cdt.from_config.timesteps import DensitySpec, open_all_at, timestep_sampler

__all__ = [
    "DataSpec", "DensitySpec", "Difficulty", "FeatureSpec", "LossSpec", "Model", "NetworkSpec",
    "SamplerSpec", "Training", "attention_heads", "autoencoder_sha256", "check_config", "data",
    "difficulty",
    "dit", "ema_decays", "ema_name", "encoder", "evaluated_emas", "evaluations", "example_loss",
    "examples", "feature_space", "intervals", "keep_every", "latent_shape", "mesh", "model",
    "network_at", "open_all_at", "posthoc_std", "power_name", "profiled_steps",
    "sample_captions", "sample_condition", "sampler", "scaling_record", "source", "steps",
    "steps_per_dispatch", "stops_where_unsaved", "timestep_sampler", "training",
    "training_loss", "validation_batch",
]  # fmt: skip
