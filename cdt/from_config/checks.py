"""Checks of a config that need no data, so that a mistake ends the program within seconds."""

from etils import epath
from ml_collections import ConfigDict

from cdt.config import duration, flatten
from cdt.errors import UserError, user_errors
from cdt.from_config.choices import (
    at_least,
    choose,
    intervals,
    keep_every,
    profiled_steps,
    steps,
    steps_per_dispatch,
    stops_where_unsaved,
)
from cdt.from_config.conditions import check_sample_condition
from cdt.from_config.datasets import SOURCES, bad_fraction, check_classes
from cdt.from_config.difficulty import difficulty
from cdt.from_config.generation import FEATURES, check_sampling
from cdt.from_config.models import Model, model
from cdt.from_config.optimization import ema_name, evaluated_emas, mesh, training
from cdt.from_config.timesteps import open_all_at

# Stands for the size of the training set, which only durations in epochs depend on.
_EXAMPLES = 1


def check_config(config: ConfigDict, mode: str) -> None:
    """Check what a mode needs of a config, without reading data or compiling anything.

    Durations in epochs depend on the size of the data set, so they are not compared with others
    here.

    Args:
      config: of the right keys and types, see `cdt.config.check_keys`.
      mode: a value of `--mode`; the arms of "compare" are checked one by one, as "train".

    Raises:
      UserError: a value is out of range, or does not fit the others or the devices.
    """
    with user_errors():
        at_least(config, "train.batch_size", 1)
        config = _without_epochs(config)
        at_least(config, "seed", 0)  # NumPy's generators, which order the batches, need that
        choose("data.name", config.data.name, SOURCES)
        check_classes(config)
        num_devices, built = mesh(config).size, model(config)
        if mode == "compare":
            for key in ("seeds", "evaluations"):
                at_least(config, f"compare.{key}", 1)
        if mode == "difficulty":
            for key in ("seeds", "validations", "num_pairs", "num_draws", "max_images"):
                at_least(config, f"difficulty.{key}", 1)
            difficulty(config, built, num_devices, _EXAMPLES)
        if mode == "replay":
            at_least(config, "replay.step", 1)
        if mode in ("train", "replay"):
            _check_training(config, built, num_devices)
        given_samples = mode == "evaluate" and config.evaluate.samples
        if mode in ("train", "sample", "evaluate") and not given_samples:
            check_sampling(config, built)
            check_sample_condition(config)
            ema_name(config)
        evaluates = mode == "train" and steps(config, "evaluate.every", _EXAMPLES, least=0)
        if mode in ("evaluate", "compare") or evaluates:
            _check_evaluation(config)


def _check_training(config: ConfigDict, built: Model, num_devices: int) -> None:
    training(config, built, num_devices, _EXAMPLES, open_all_at(config, _EXAMPLES))
    total = steps(config, "train.duration", _EXAMPLES)
    steps_per_dispatch(config, intervals(config, _EXAMPLES), total)
    keep_every(config, _EXAMPLES)
    stops_where_unsaved(config)
    profiled_steps(config)
    evaluated_emas(config)
    bad_fraction(config)


def _check_evaluation(config: ConfigDict) -> None:
    for key in ("evaluate.num", "evaluate.batch_size"):
        at_least(config, key, 1)
    choose("evaluate.features", config.evaluate.features, FEATURES)
    if config.data.name == "latents" and not config.evaluate.reference:
        raise UserError(
            "config.evaluate.reference is empty and config.data.name is 'latents', which holds no "
            "images; give an npz of statistics or images, or a folder of images."
        )
    for key, kind in (
        ("reference", "an npz of statistics or images, or a folder of images"),
        ("samples", "an npz or a folder of images"),
        ("weights", "the file of the weights, or leave the key empty to download it"),
    ):
        path = config.evaluate[key]
        if path and not epath.Path(path).expanduser().exists():
            raise UserError(
                f"config.evaluate.{key} is '{path}', which does not exist; give {kind}."
            )


def _without_epochs(config: ConfigDict) -> ConfigDict:
    """A copy whose durations in epochs are replaced by steps that fit all other durations."""
    config = config.copy_and_resolve_references()
    at_once = max(1, config.train.steps_per_dispatch)
    intervals_in_epochs = {
        key: f"{1000 * at_once} steps"
        for key in flatten(config)
        if key.rpartition(".")[2] == "every"
    }
    fitting = intervals_in_epochs | {
        "train.duration": f"{10**6 * at_once} steps",
        "difficulty.duration": f"{10**6} steps",
        "optim.warmup": "1 steps",
        "checkpoint.keep_every": "0 steps",
    }
    given = flatten(config)
    in_epochs = {key for key in fitting if str(given[key]).strip().endswith("epochs")}
    for key in in_epochs:
        duration(str(given[key]), key, config.train.batch_size, _EXAMPLES)  # a number of epochs
    if "checkpoint.every" in in_epochs:
        in_epochs.add("checkpoint.keep_every")
    config.update_from_flattened_dict({key: fitting[key] for key in in_epochs})
    return config
