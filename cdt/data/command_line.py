"""Flags of the programs in `cdt.data` that take no config: parsing, and their list for --help."""

import textwrap
from typing import Any

from absl import flags

from cdt.errors import UserError

_MEANING_AT = 24  # column


def parsed(known: flags.FlagValues, argv: list[str]) -> flags.FlagValues:
    """Return `known` with the values of a command line.

    Raises:
      UserError: a flag is unknown, its value is wrong, or an argument is not a flag.
    """
    try:
        rest = known(argv)
    except flags.Error as error:
        raise UserError(f"{error}; --help lists the flags.") from None
    if rest[1:]:
        raise UserError(f"'{rest[1]}' is not a flag; write --NAME=VALUE.")
    return known


def flag_list(known: flags.FlagValues) -> str:
    """Return the flags with their defaults and meanings, at most 80 columns wide."""
    return "\n".join(_described(known[name]) for name in known)


def _described(flag: flags.Flag[Any]) -> str:
    meaning = flag.help  # which begins with <A|B> for a choice
    if flag.default not in (None, "", False):
        meaning += f" (default {flag.default})"
    value = "" if flag.boolean else "=" + ("N" if flag.flag_type() == "int" else "VALUE")
    left = f"  --{flag.name}{value}"
    indent = " " * _MEANING_AT
    return textwrap.fill(
        meaning, 80, initial_indent=left.ljust(_MEANING_AT), subsequent_indent=indent
    )
