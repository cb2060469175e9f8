"""Exports of each package, and the heavy libraries that importing it loads."""

import ast
import importlib
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1] / "cdt"
PACKAGES = sorted(path.parent.name for path in ROOT.glob("*/__init__.py"))


def source_of(package):
    tree = ast.parse((ROOT / package / "__init__.py").read_text())
    imported = {
        alias.asname or alias.name: f"{node.module}"
        for node in tree.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    return ast.get_docstring(tree), imported


EXPORTING = [package for package in PACKAGES if source_of(package)[1]]


@pytest.mark.parametrize("package", EXPORTING)
def test_exports_are_all_that_is_imported_and_are_functions_not_modules(package):
    _, imported = source_of(package)
    room = importlib.import_module(f"cdt.{package}")
    assert room.__all__ == sorted(imported)
    for name, home in imported.items():
        # A function with the name of its module hides the module.
        assert getattr(room, name) is vars(importlib.import_module(home))[name]


# The names of from_config are listed by what they build, in its modules.
@pytest.mark.parametrize("package", sorted({*PACKAGES} - {"from_config"}))
def test_the_docstring_lists_what_is_in_the_package(package):
    """It lists the exported names, or the modules if the package exports nothing."""
    doc, imported = source_of(package)
    modules = {path.stem for path in (ROOT / package).glob("*.py")} - {"__init__"}
    assert (set(imported) or modules) <= set(re.findall(r"\w+", doc))


HEAVY = "jax flax optax orbax tensorflow torch scipy matplotlib grain ml_collections PIL numpy"


# Heavy libraries that each module may load. These modules start programs or must run before JAX.
@pytest.mark.parametrize(
    "module, allowed",
    [
        ("cdt", ""),
        ("cdt.devices.malloc", ""),
        ("cdt.key_table", ""),
        ("cdt.usage", ""),
        ("cdt.main", "ml_collections"),
        ("cdt.config", "ml_collections"),
        ("cdt.data.emoji", ""),
        ("cdt.data.text", "numpy"),
        ("cdt.data.prepare", "numpy PIL"),
        ("cdt.data.split_writer", "numpy PIL"),  # of each worker process
        ("cdt.monitoring.history", "numpy"),
    ],
)
def test_importing_loads_nothing_heavy(module, allowed):
    program = f"import sys, {module}; print(*(sys.modules.keys() & set('{HEAVY}'.split())))"
    loaded = subprocess.check_output([sys.executable, "-c", program], text=True)
    assert set(loaded.split()) <= set(allowed.split())
