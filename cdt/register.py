"""Registration of custom networks, data sources, samplers and the like under a name.

A config file registers a method and then chooses it by name, like those of cdt:

    from cdt import register

    def build(spec, width, depth):
        return Mlp(spec.out_channels, spec.num_classes, width, depth)

    register.network("mlp", build, width=64, depth=2)

The keyword arguments become a section of the config, here `config.model.mlp`, with these defaults.
Its keys are checked, can be changed on the command line (`--config.model.mlp.width=128`) and are
saved, like all other keys. `build` gets them as keyword arguments. Values have the type bool, int,
float or str, or are tuples of one of these types with at least one element.

Names are identifiers. Every function raises UserError for a name that is taken and for an option of
another type. The same function of the same file may be registered again: that happens when the file
is imported twice.
"""

import os
from collections.abc import Callable
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from cdt import config as schema
from cdt.data.sources import Source
from cdt.diffusion.loss_weights import Weight
from cdt.errors import UserError
from cdt.evals.features import Activations, FeatureFn
from cdt.from_config.datasets import SOURCES
from cdt.from_config.generation import (
    FAMILIES,
    FEATURES,
    SAMPLERS,
    BuildSampler,
    FeatureSpec,
    Sampler,
    one_a_step,
)
from cdt.from_config.loss_weights import WEIGHTS
from cdt.from_config.models import MODELS
from cdt.from_config.timesteps import DENSITIES, TIMESTEP_SAMPLERS, Method
from cdt.timesteps.base import Density, TimestepSampler

# Config key of the name of a method -> the tables that have the methods.
_TABLES: dict[str, tuple[dict[str, Any], ...]] = {
    "data.name": (SOURCES,),
    "model.name": (MODELS,),
    "density.name": (DENSITIES, TIMESTEP_SAMPLERS),
    "loss.weight": (WEIGHTS,),
    "sample.sampler": (SAMPLERS,),
    "evaluate.features": (FEATURES,),
}
_origins: dict[tuple[str, str], object] = {}  # (key, name) -> origin of a registered function


def data_source(name: str, build: Callable[..., Source], /, **options: Any) -> None:
    """Register a value of `config.data.name`.

    Args:
      name: of the data source, and of its section `config.data.<name>`.
      build: (spec, **options) -> Source; spec is a `cdt.from_config.DataSpec`. Called once
        for the training split and once for the held-out one.
      **options: the keys of the section with their defaults.
    """
    _add("data.name", SOURCES, name, build, build, options)


def network(name: str, build: Callable[..., Any], /, **options: Any) -> None:
    """Register a value of `config.model.name`.

    Args:
      name: of the network, and of its section `config.model.<name>`.
      build: (spec, **options) -> Flax Linen module; spec is a `cdt.from_config.NetworkSpec`.
      **options: the keys of the section with their defaults.
    """
    _add("model.name", MODELS, name, build, build, options)


def density(name: str, build: Callable[..., Density], /, **options: Any) -> None:
    """Register a value of `config.density.name` that works with and without the curriculum.

    Args:
      name: of the density, and of its section `config.density.<name>`.
      build: (spec, **options) -> Density; spec is a `cdt.from_config.DensitySpec`.
      **options: the keys of the section with their defaults.
    """
    _add("density.name", DENSITIES, name, build, build, options)


def timestep_sampler(name: str, build: Callable[..., TimestepSampler], /, **options: Any) -> None:
    """Register a value of `config.density.name` that draws from all of u, without a curriculum.

    Args:
      name: of the timestep sampler, and of its section `config.density.<name>`.
      build: (spec, **options) -> TimestepSampler; spec is a `cdt.from_config.DensitySpec`.
        With an option `switch_fraction`, `spec.switch_step` is the absolute step of that fraction
        of the run, computed when the run started.
      **options: the keys of the section with their defaults.
    """
    _add("density.name", TIMESTEP_SAMPLERS, name, build, Method(build), options)


def loss_weight(name: str, build: Callable[..., Weight], /, **options: Any) -> None:
    """Register a value of `config.loss.weight`.

    Args:
      name: of the loss weight, and of its section `config.loss.<name>`.
      build: (spec, **options) -> Weight, a function from native levels f32[B] to the factor
        f32[B] >= 0 of the squared error of the network's output; spec is a
        `cdt.from_config.LossSpec`.
      **options: the keys of the section with their defaults.
    """
    _add("loss.weight", WEIGHTS, name, build, build, options)


def sampler(
    name: str,
    build: BuildSampler,
    /,
    families: tuple[str, ...] = FAMILIES,
    evaluations: Callable[[int], int] = one_a_step,
    **options: Any,
) -> None:
    """Register a value of `config.sample.sampler`.

    Args:
      name: of the sampler, and of its section `config.sample.<name>`.
      build: (spec, **options) -> (levels, run); spec is a `cdt.from_config.SamplerSpec`.
        levels is float64 [steps + 1], noisiest first; `spec.levels` is the default grid. run is
        (denoise, process, levels, x, noise) -> x0, see `cdt.sampling`.
      families: the values of `config.process.name` that it supports.
      evaluations: steps -> evaluations of the network for one image without guidance, which results
        report.
      **options: the keys of the section with their defaults.
    """
    _add("sample.sampler", SAMPLERS, name, build, Sampler(build, families, evaluations), options)


def feature_space(name: str, build: Callable[..., FeatureFn], /, **options: Any) -> None:
    """Register a value of `config.evaluate.features`.

    Args:
      name: of the feature space, and of its section `config.evaluate.<name>`.
      build: (spec, **options) -> feature function, see `cdt.evals.features`; spec is a
        `cdt.from_config.FeatureSpec`.
      **options: the keys of the section with their defaults.
    """

    def build_named(spec: FeatureSpec, **own: Any) -> FeatureFn:
        features = build(spec, **own)

        def named(images: np.ndarray) -> Activations[np.ndarray]:
            return features(images)

        # The cache of the data's statistics uses this name.
        named.__name__ = "-".join([name, *(f"{key}-{value}" for key, value in own.items())])
        return named

    _add("evaluate.features", FEATURES, name, build, build_named, options)


def unregistered(config: ConfigDict) -> str | None:
    """Return the first key such as "model.name" whose value is not a registered method, or None."""
    flat = schema.flatten(config)
    return next(
        (key for key, tables in _TABLES.items() if not any(flat[key] in table for table in tables)),
        None,
    )


def _add(
    key: str, table: dict[str, Any], name: str, build: object, entry: Any, options: dict[str, Any]
) -> None:
    section = key.partition(".")[0]
    if not name.isidentifier():
        raise UserError(
            f"The name '{name}' of config.{key} is not an identifier; use letters, digits and '_'."
        )
    again = _origins.get((key, name)) == _origin(build)
    taken = any(name in known for known in _TABLES[key]) or name in schema.default_config()[section]
    if taken and not again:
        raise UserError(
            f"The name '{name}' of config.{key} is taken by a method or by the key "
            f"config.{section}.{name}; register the method under another name."
        )
    schema.add_section(f"{section}.{name}", options)
    table[name], _origins[key, name] = entry, _origin(build)


def _origin(build: object) -> object:
    """A value that is equal for the same function of the same file; in a notebook, for the same
    name."""
    code, module = getattr(build, "__code__", None), getattr(build, "__module__", None)
    place = os.path.abspath(code.co_filename) if code and module != "__main__" else module
    return place, getattr(build, "__qualname__", build)
