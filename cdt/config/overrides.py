"""Changes that `--config.KEY=VALUE` makes to a config."""

import ast
from collections.abc import Sequence

from ml_collections import ConfigDict

from cdt.config.check import element_type, kind_of
from cdt.config.schema import default_config, flatten, has_key
from cdt.config.suggestions import unknown_key
from cdt.errors import UserError

_TRUE, _FALSE = ("true", "t", "1"), ("false", "f", "0")


def split_overrides(argv: Sequence[str]) -> tuple[list[str], list[tuple[str, str | None]]]:
    """Separate the arguments that change config keys from the others.

    Accepts `--config.KEY=VALUE`, `--config.KEY VALUE` and, for a bool, `--config.KEY` and
    `--noconfig.KEY`. One dash is as good as two.

    Returns:
      (the other arguments, [(key, value), ...]); the value is None where none follows.
    """
    others: list[str] = []
    overrides: list[tuple[str, str | None]] = []
    arguments = iter(enumerate(argv))
    for i, argument in arguments:
        flag, equals, value = argument.partition("=")
        name = flag.lstrip("-")
        if not argument.startswith("-") or not name.startswith(("config.", "noconfig.")):
            others.append(argument)
        elif name.startswith("noconfig."):
            overrides.append((name.removeprefix("noconfig."), "false"))
        elif equals:
            overrides.append((name.removeprefix("config."), value))
        elif i + 1 < len(argv) and not _is_flag(argv[i + 1]):
            overrides.append((name.removeprefix("config."), argv[i + 1]))
            next(arguments)
        else:
            overrides.append((name.removeprefix("config."), None))
    return others, overrides


def _is_flag(argument: str) -> bool:
    """Whether an argument begins with a dash and is not a negative number."""
    return argument.startswith("-") and not argument[1:2].isdigit() and argument[1:2] != "."


def override(config: ConfigDict, key: str, text: str | None) -> None:
    """Set one key of a config to the value of `--config.KEY=VALUE`.

    Args:
      config: changed in place.
      key: such as "optim.lr".
      text: the value as it is written; None where no value was given, which is True for a bool.

    Raises:
      UserError: there is no such key, or the value is not of its type.
    """
    known = flatten(default_config())
    if key not in known:
        raise unknown_key(key, text)
    default = known[key]
    if text is None:
        if not isinstance(default, bool):
            raise UserError(f"--config.{key} has no value; give --config.{key}=VALUE.")
        text = "true"
    try:
        value = _parsed(key, text, default)
    except (ValueError, SyntaxError):
        raise UserError(
            f"config.{key} is '{text}'; it must be {kind_of(default)} such as "
            f"{default if default != () else (1, 2)!r}."
        ) from None
    if not has_key(config, key):
        return  # the config is not of the schema, which `check_keys` reports
    with config.ignore_type():
        config.update_from_flattened_dict({key: value})


def _parsed(key: str, text: str, default: object) -> object:
    """The value of a key, of the type of its default.

    Raises:
      ValueError, SyntaxError: not of that type.
    """
    if isinstance(default, bool):
        if text.lower() not in _TRUE + _FALSE:
            raise ValueError
        return text.lower() in _TRUE
    if isinstance(default, (int, float)):
        return type(default)(text)
    if isinstance(default, tuple):
        if not text:
            return ()
        try:
            value = ast.literal_eval(text)
        except (ValueError, SyntaxError):
            if element_type(key) is not str:
                raise
            value = text  # one text without quotes
        return tuple(value) if isinstance(value, (tuple, list)) else (value,)
    return text
