"""A hook of the site's builder: the table of config keys, read off cdt/config.py.

It reads the source and does not import it, so the site needs none of cdt's requirements. A key's
meaning is the comment behind it and the comment lines above it.
"""

import ast
import io
import tokenize
from pathlib import Path
from typing import NamedTuple

SOURCE = Path(__file__).parents[1] / "cdt" / "config.py"
PAGE, PLACE = "reference/config.md", "<!-- the keys -->"


class Key(NamedTuple):
    """One key of the config."""

    name: str  # "optim.lr"
    default: str  # as written in the source
    meaning: str


class Section(NamedTuple):
    """The keys under one name; those at the top have none."""

    name: str
    meaning: str
    keys: list[Key]


def sections(source: str) -> list[Section]:
    """The sections of `default_config`, in its order."""
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
        if not isinstance(target, ast.Attribute):
            continue
        name = ast.unparse(target).removeprefix("config.")
        above, line = [], statement.lineno - 1
        while line in comments and comments[line][1]:
            above.insert(0, comments[line][0])
            line -= 1
        # Of a value of several lines the comment is behind the first.
        behind = [comments[statement.lineno][0]] if statement.lineno in comments else []
        meaning = " ".join([*behind, *above])
        if ast.unparse(statement.value) == "ConfigDict()":
            found[name] = Section(name, meaning, [])
        else:
            key = Key(name, ast.unparse(statement.value), meaning)
            found[name.rpartition(".")[0]].keys.append(key)
    return list(found.values())


def tables(source: str) -> str:
    """The sections as Markdown, a table each."""
    lines = []
    for section in sections(source):
        lines += [f"## {section.name or 'At the top'}", ""]
        lines += [f"{_cell(section.meaning)}.", ""] if section.meaning else []
        lines += ["| key | default | meaning |", "|---|---|---|"]
        for key in section.keys:
            default = "see the source" if len(key.default) > 60 else f"`{key.default}`"
            lines.append(f"| `{key.name}` | {default} | {_cell(key.meaning)} |")
        lines.append("")
    return "\n".join(lines)


def _cell(text: str) -> str:
    for character in "|*<":  # which Markdown would read
        text = text.replace(character, "\\" + character)
    return text


def on_page_markdown(markdown: str, page, **_) -> str:
    """Called by MkDocs for each page."""
    if page.file.src_uri != PAGE:
        return markdown
    return markdown.replace(PLACE, tables(SOURCE.read_text()))
