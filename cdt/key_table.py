"""The config keys with their defaults and meanings, read from the source of cdt/config/schema.py.

The meaning of a key is the comment behind it and the comment lines above it. Nothing is imported,
so `--help=SECTION` is fast and the site needs none of cdt's requirements.
"""

import ast
import io
import textwrap
import tokenize
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

SOURCE = Path(__file__).parent / "config" / "schema.py"

_WIDTH, _MEANING_AT = 80, 30  # columns of `listing`


class Key(NamedTuple):
    """One key of the config."""

    name: str  # "optim.lr"
    default: str  # as written in the source
    meaning: str


class Section(NamedTuple):
    """The keys under one name; the name of those without a section is empty."""

    name: str
    meaning: str
    keys: list[Key]


def sections(source: str) -> list[Section]:
    """Return the sections of `default_config`, in its order.

    Args:
      source: of cdt/config/schema.py.
    """
    function = next(
        node
        for node in ast.parse(source).body
        if isinstance(node, ast.FunctionDef) and node.name == "default_config"
    )
    comments = {
        token.start[0]: (token.string.lstrip("# "), token.line.lstrip().startswith("#"))
        for token in tokenize.generate_tokens(io.StringIO(source).readline)
        if token.type == tokenize.COMMENT
    }
    found = {"": Section("", "", [])}
    for statement in function.body:
        target = statement.targets[0] if isinstance(statement, ast.Assign) else None
        if not isinstance(statement, ast.Assign) or not isinstance(target, ast.Attribute):
            continue
        name = ast.unparse(target).removeprefix("config.")
        above: list[str] = []
        line = statement.lineno - 1
        while line in comments and comments[line][1]:
            above.insert(0, comments[line][0])
            line -= 1
        # The comment of a value of several lines is behind the first.
        behind = [comments[statement.lineno][0]] if statement.lineno in comments else []
        meaning = " ".join([*behind, *above])
        value = ast.get_source_segment(source, statement.value) or ""
        if value == "ConfigDict()":
            found[name] = Section(name, meaning, [])
        else:
            key = Key(name, value, meaning)
            found[name.rpartition(".")[0]].keys.append(key)
    return list(found.values())


def listing(topic: str, known: Iterable[Section]) -> str | None:
    """Return what `--help=TOPIC` prints, or None if the topic is not a section or key.

    Args:
      topic: "curriculum" (with its subsections), "curriculum.patience" or "optim.lr".
      known: from `sections`.
    """
    parts = []
    for section in known:
        inside = section.name == topic or section.name.startswith(f"{topic}.")
        keys = section.keys if inside else [key for key in section.keys if key.name == topic]
        if not inside and not keys:
            continue
        title = f"config.{section.name}" if section.name else "config"
        meaning = f": {section.meaning}" if section.meaning else ""
        lines = textwrap.wrap(f"{title}{meaning}", _WIDTH)
        parts.append("\n".join([*lines, *(_described(key) for key in keys)]))
    return "\n\n".join(parts) or None


def _described(key: Key) -> str:
    """One key as `name = default   meaning`; the meaning starts a new line behind a long name."""
    name, default = key.name.rpartition(".")[2], key.default
    if len(default) > 40 or "\n" in default:
        default = "(long: see cdt/config/schema.py)"
    elif len(default) > 2 and default[0] == default[-1] == '"':
        default = default[1:-1]  # as it is given on the command line
    left = f"  {name} = {default}"
    indent = " " * _MEANING_AT
    text = textwrap.fill(
        key.meaning, _WIDTH, initial_indent=indent, subsequent_indent=indent, break_long_words=False
    )
    if len(left) + 2 <= _MEANING_AT:
        return (left.ljust(_MEANING_AT) + text[_MEANING_AT:]).rstrip()
    return f"{left}\n{text}" if text else left
