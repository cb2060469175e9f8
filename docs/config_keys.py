"""A hook of the site's builder: the table of config keys, read from cdt/config/schema.py.

`cdt.key_table` reads the source and does not import it, so the site needs none of cdt's
requirements.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from cdt.key_table import SOURCE, sections

PAGE, PLACE = "reference/config.md", "<!-- the keys -->"


def tables(source: str) -> str:
    """Return the sections as Markdown, one table each."""
    lines = []
    for section in sections(source):
        lines += [f"## {section.name or 'Without a section'}", ""]
        lines += [f"{_cell(section.meaning)}.", ""] if section.meaning else []
        lines += ["| key | default | meaning |", "|---|---|---|"]
        for key in section.keys:
            default = "see cdt/config/schema.py" if len(key.default) > 60 else f"`{key.default}`"
            lines.append(f"| `{key.name}` | {default} | {_cell(key.meaning)} |")
        lines.append("")
    return "\n".join(lines)


def _cell(text: str) -> str:
    for character in "|*<":  # Markdown would interpret these
        text = text.replace(character, "\\" + character)
    return text


def on_page_markdown(markdown: str, page, **_) -> str:
    """Called by MkDocs for each page."""
    if page.file.src_uri != PAGE:
        return markdown
    return markdown.replace(PLACE, tables(SOURCE.read_text()))
