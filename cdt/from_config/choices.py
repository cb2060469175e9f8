"""Values of a config, checked: what every module of `from_config` says when one is wrong."""

from collections.abc import Iterable
from typing import Any

from ml_collections import ConfigDict

from cdt.config import duration, nearest
from cdt.errors import UserError


def choose(key: str, value: str, table: Iterable[str]) -> Any:
    """The entry of a table (or the name itself, of a tuple of names) that a config names."""
    if value not in table:
        raise UserError(f"config.{key} is '{value}'; {nearest(value, table)}")
    return table[value] if isinstance(table, dict) else value


def options(config: ConfigDict, section: str, name: str) -> dict[str, Any]:
    """The options of one method of a section, such as `config.density.logit_normal`; {} for a
    method without any."""
    found = config[section].get(name)
    return found.to_dict() if isinstance(found, ConfigDict) else {}


def at_least(config: ConfigDict, key: str, least: float) -> None:
    """Raise UserError if the number under a key such as "curriculum.patience.steps" is smaller."""
    value: Any = config
    for part in key.split("."):
        value = value[part]
    if value < least:
        raise UserError(f"config.{key} is {value}; it must be at least {least}.")


def steps(config: ConfigDict, key: str, num_examples: int, least: int = 1) -> int:
    """The duration under a config key such as "train.duration", in steps, at least `least`."""
    section, _, name = key.partition(".")
    text = config[section][name]
    at_least(config, "train.batch_size", 1)
    result = duration(text, key, config.train.batch_size, num_examples)
    if result < least:
        raise UserError(f"config.{key} is '{text}', which is no step at all; give at least one.")
    return result


def keep_every(config: ConfigDict, num_examples: int) -> int | None:
    """Checkpoints at multiples of so many steps are kept for good; None where none are."""
    kept = steps(config, "checkpoint.keep_every", num_examples, least=0)
    saved = steps(config, "checkpoint.every", num_examples)
    if kept % saved:
        raise UserError(
            f"config.checkpoint.keep_every is {kept} steps, but a checkpoint is saved each {saved} "
            "(config.checkpoint.every); make it a multiple of that."
        )
    return kept or None


def stops_where_unsaved(config: ConfigDict) -> bool:
    """Whether a run ends at a checkpoint that could not be written; the last one always must be."""
    at_least(config, "checkpoint.keep", 1)
    table = {"continue": False, "stop": True}
    return choose("checkpoint.on_failure", config.checkpoint.on_failure, table)


def profiled_steps(config: ConfigDict) -> tuple[int, int] | None:
    """(start, stop): the steps start .. stop - 1 are traced; None traces nothing."""
    given = tuple(config.profile.steps)
    if not given:
        return None
    if len(given) != 2 or not 0 <= given[0] < given[1]:
        raise UserError(
            f"config.profile.steps is {given}; it must be two numbers with 0 <= start < stop, such "
            "as (20, 25), or empty."
        )
    return given[0], given[1]


def intervals(config: ConfigDict, num_examples: int) -> dict[str, int]:
    """Section -> the steps between two of its events; evaluation may have 0, which is never."""
    named = ("log", "validation", "sample", "checkpoint")
    every = {name: steps(config, f"{name}.every", num_examples) for name in named}
    return every | {"evaluate": steps(config, "evaluate.every", num_examples, least=0)}


def steps_per_dispatch(config: ConfigDict, every: dict[str, int], total_steps: int) -> int:
    """How many steps one program makes.

    Args:
      config: the run's.
      every: section -> the steps of its `every`; the loop looks up at each.
      total_steps: of the run.
    """
    at_least(config, "train.steps_per_dispatch", 1)
    count = config.train.steps_per_dispatch
    lengths = {f"{name}.every": length for name, length in every.items()}
    for key, length in (lengths | {"train.duration": total_steps}).items():
        if length % count:
            raise UserError(
                f"config.train.steps_per_dispatch is {count}, which does not divide config.{key}, "
                f"{length} steps; make it a divisor, or change that."
            )
    return count
