"""Checks of a config against the schema: its keys and the types of their values."""

import math
from collections.abc import Iterable

from ml_collections import ConfigDict

from cdt.config.schema import default_config, flatten
from cdt.config.suggestions import unknown_key
from cdt.errors import UserError

# Types of the elements of tuples.
_ELEMENTS = {
    "compare.arms": str,
    "curriculum.edges": float,
    "data.class_names": str,
    "ema.decays": float,
    "ema.half_lives_kimg": float,
    "ema.power_stds": float,
    "evaluate.emas": str,
    "model.attention_resolutions": int,
    "model.channel_mult": int,
    "profile.steps": int,
    "sample.classes": int,
    "sample.guidance_interval": float,
    "sample.prompts": str,
}
_MAY_BE_INFINITE = {"sample.heun.S_max"}  # no upper end, as by EDM's own default
_KINDS = {
    bool: "a bool (True or False)", int: "an int", float: "a float", str: "a string",
    tuple: "a tuple",
}  # fmt: skip


def kind_of(value: object) -> str:
    """Return "a float" and the like, for messages."""
    return _KINDS.get(type(value), f"a {type(value).__name__}")


def element_type(key: str) -> type | None:
    """Return the type of the elements of a tuple-valued key; None for other keys."""
    default = flatten(default_config()).get(key)
    if not isinstance(default, tuple):
        return None
    return _ELEMENTS[key] if key in _ELEMENTS else type(default[0])


def _is_a(kind: type, value: object) -> bool:
    kinds = {float: (float, int), tuple: (tuple, list)}.get(kind, (kind,))
    return isinstance(value, kinds) and (kind is bool or not isinstance(value, bool))


def check_keys(config: ConfigDict) -> None:
    """Check that the config has exactly the schema's keys, with values of its types.

    An int is accepted for a float and a list for a tuple. Numbers must not be NaN or inf, except
    those in _MAY_BE_INFINITE.

    Raises:
      UserError: an unknown or a missing key, or a value of another type.
    """
    known, given = flatten(default_config()), flatten(config)
    for key in given:
        if key not in known:
            raise unknown_key(key)
    for key, default in known.items():
        if key not in given:
            raise UserError(
                f"The config lacks the key '{key}'; start from cdt.config.default_config()."
            )
        value = given[key]
        if not _is_a(type(default), value):
            raise UserError(
                f"config.{key} is {value!r}, {kind_of(value)}; it must be {kind_of(default)} such "
                f"as {default!r}."
            )
        if isinstance(value, float) and not math.isfinite(value) and key not in _MAY_BE_INFINITE:
            raise UserError(f"config.{key} is {value}; give a finite number such as {default!r}.")
        if not isinstance(default, tuple) or not isinstance(value, Iterable):
            continue
        kind = _ELEMENTS[key] if key in _ELEMENTS else type(default[0])
        for element in value:
            if not _is_a(kind, element):
                raise UserError(
                    f"config.{key} holds {element!r}, {kind_of(element)}; its elements must be of "
                    f"type {kind.__name__}."
                )
            if isinstance(element, float) and not math.isfinite(element):
                raise UserError(f"config.{key} holds {element}; give finite numbers.")
