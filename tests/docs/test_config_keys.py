"""The site's table of config keys is the schema, key by key."""

import ast
import runpy

from cdt.config import default_config, flatten
from cdt.key_table import SOURCE, listing, sections
from doc_pages import ROOT

TABLE = runpy.run_path(str(ROOT / "docs" / "config_keys.py"))


def test_every_key_is_there_once_with_its_default():
    keys = [key for section in sections(SOURCE.read_text()) for key in section.keys]
    known = flatten(default_config())
    assert sorted(key.name for key in keys) == sorted(known)
    for key in keys:
        assert key.meaning, key.name
        assert (
            eval(compile(ast.parse(key.default, mode="eval"), key.name, "eval")) == known[key.name]
        )


def test_comments_become_meanings():
    source = (
        "def default_config():\n"
        "    config = ConfigDict()\n"
        "    config.a = ConfigDict()  # of the section\n"
        "    # above\n"
        "    config.a.b = 2**3  # x | y\n"
        "    config.a.c = ''\n"
        "    return config\n"
    )
    made = TABLE["tables"](source)
    assert "of the section.\n" in made
    assert "| `a.b` | `2**3` | x \\| y above |" in made and "| `a.c` | `''` |  |" in made
    assert listing("a", sections(source)) == (
        "config.a: of the section\n  b = 2**3                    x | y above\n  c = ''"
    )
    assert listing("a.c", sections(source)) == "config.a: of the section\n  c = ''"
    assert listing("b", sections(source)) is None


def test_the_page_has_the_place_for_it():
    assert TABLE["PLACE"] in (ROOT / "docs" / TABLE["PAGE"]).read_text()
