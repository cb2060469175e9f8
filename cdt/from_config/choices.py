"""Checked values of a config, with the messages that are common to `from_config`."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from ml_collections import ConfigDict

from cdt.config import duration, nearest
from cdt.errors import UserError


def choose(key: str, value: str, table: Iterable[str]) -> Any:
    """Return the entry of a table that a config value names, or the value if the table is a tuple.

    Raises:
      UserError: the table has no such name.
    """
    if value not in table:
        raise UserError(f"config.{key} is '{value}'; {nearest(value, table)}")
    return table[value] if isinstance(table, dict) else value


@contextmanager
def named(section: str) -> Iterator[None]:
    """Turn a ValueError of the library into a UserError that names a section of the config."""
    try:
        yield
    except ValueError as error:
        raise UserError(f"config.{section}: {error}") from error


def options(config: ConfigDict, section: str, name: str) -> dict[str, Any]:
    """Return the options of one method of a section, such as `config.density.logit_normal`; {} for
    a method without options."""
    found = config[section].get(name)
    return found.to_dict() if isinstance(found, ConfigDict) else {}


def at_least(config: ConfigDict, key: str, least: float) -> None:
    """Raise UserError if the number under a key such as "curriculum.patience.steps" is less than
    `least`."""
    value: Any = config
    for part in key.split("."):
        value = value[part]
    if value < least:
        raise UserError(f"config.{key} is {value}; it must be at least {least}.")


def steps(config: ConfigDict, key: str, num_examples: int, least: int = 1) -> int:
    """Return the duration under a key such as "train.duration" in steps.

    Raises:
      UserError: it is malformed, or fewer than `least` steps.
    """
    section, _, name = key.partition(".")
    text = config[section][name]
    at_least(config, "train.batch_size", 1)
    result = duration(text, key, config.train.batch_size, num_examples)
    if result < least:
        raise UserError(f"config.{key} is '{text}'; it must be at least one step.")
    return result


def keep_every(config: ConfigDict, num_examples: int) -> int | None:
    """Return the interval in steps of the checkpoints that are kept permanently, or None."""
    kept = steps(config, "checkpoint.keep_every", num_examples, least=0)
    saved = steps(config, "checkpoint.every", num_examples)
    if kept % saved:
        raise UserError(
            f"config.checkpoint.keep_every is {kept} steps; it must be a multiple of "
            f"config.checkpoint.every, {saved} steps: change one of them."
        )
    return kept or None


def stops_where_unsaved(config: ConfigDict) -> bool:
    """Return whether a run stops at a checkpoint that cannot be written. A run always stops if the
    last one cannot be written."""
    at_least(config, "checkpoint.keep", 1)
    table = {"continue": False, "stop": True}
    return choose("checkpoint.on_failure", config.checkpoint.on_failure, table)


def profiled_steps(config: ConfigDict) -> tuple[int, int] | None:
    """Return (start, stop) if the steps start to stop - 1 are to be traced, otherwise None."""
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
    """Return {section: interval in steps} of log, validation, sample, checkpoint and evaluate; an
    interval of 0, which only evaluate may have, is never."""
    named = ("log", "validation", "sample", "checkpoint")
    every = {name: steps(config, f"{name}.every", num_examples) for name in named}
    return every | {"evaluate": steps(config, "evaluate.every", num_examples, least=0)}


def steps_per_dispatch(config: ConfigDict, every: dict[str, int], total_steps: int) -> int:
    """Return the number of steps in one compiled program.

    Args:
      config: of the run.
      every: from `intervals`; the loop returns to the host at each.
      total_steps: length of the run.

    Raises:
      UserError: an interval or the length of the run is not a multiple of it.
    """
    at_least(config, "train.steps_per_dispatch", 1)
    count = config.train.steps_per_dispatch
    lengths = {f"{name}.every": length for name, length in every.items()}
    for key, length in (lengths | {"train.duration": total_steps}).items():
        if length % count:
            raise UserError(
                f"config.train.steps_per_dispatch is {count}; it must divide config.{key}, "
                f"{length} steps: change one of them."
            )
    return count
