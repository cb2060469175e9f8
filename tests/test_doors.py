"""The import rules of docs/design.md, checked on the source."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1] / "cdt"

# room -> the rooms that it may import (itself always). A room is a folder or a file of cdt/.
ALLOWED = {
    "errors": set(),
    "version": set(),
    "key_table": set(),
    "usage": {"errors", "version"},
    "files": set(),
    "timesteps": set(),
    "diffusion": set(),
    "models": set(),
    "config": {"errors"},
    "curriculum": {"timesteps"},
    "sampling": {"diffusion"},
    "devices": {"errors"},
    "monitoring": {"errors", "files", "version"},
    "training": {"curriculum", "diffusion", "timesteps"},
    "difficulty": {"curriculum", "diffusion", "monitoring", "timesteps", "training"},
    "comparison": {"files"},
    "workdir": {"config", "devices", "errors", "files"},
    "data": {"devices", "errors", "files", "monitoring", "usage"},
    "evals": {"data", "files"},
    "interop": {"errors", "files", "models"},
    "variants": {"config"},
}
BUILDER = "from_config"  # imports all of these
# What the modes and programs import, and nothing below them does.
TOP = {"from_config", "register", "modes", "run", "main", "__main__", "variants"}
# Programs of their own, like cdt.main, and what they share.
PROGRAMS = {
    "data/latents.py",
    "interop/export_diffusers.py",
    "interop/export_safetensors.py",
    "interop/export_stablehlo.py",
    "interop/import_dit.py",
    "interop/import_edm.py",
    "interop/imported.py",
}
# outside package -> the only files or rooms that may import it.
OWNED = {
    "orbax": {"workdir/checkpoint.py"},
    "clu.metric_writers": {"monitoring/writers.py"},
    "tensorflow": {"monitoring/writers.py"},
    "safetensors": {"files/safetensors.py"},
    "ml_collections": {
        "config",
        "from_config",
        "main",
        "modes",
        "register",
        "run",
        "variants",
        "workdir",
    },
    "flax.linen": {"models"},
    "flax": {"models", "training/state.py", "workdir/leaves.py"},
}


def imports_of(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def room_of(path: Path) -> str:
    name = path.relative_to(ROOT).as_posix()
    return "main" if name in PROGRAMS else name.partition("/")[0].removesuffix(".py")


def rooms_in(names: set[str]) -> set[str]:
    inside = {name.split(".")[1] for name in names if name.startswith("cdt.")}
    return {room for room in inside if (ROOT / room).is_dir() or (ROOT / f"{room}.py").exists()}


FILES = sorted(ROOT.rglob("*.py"))


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_go_downward(path):
    room, used = room_of(path), rooms_in(imports_of(path))
    if room in ALLOWED:
        assert used - {room} <= ALLOWED[room]
    elif room == BUILDER:
        assert not used & (TOP - {BUILDER})
    elif room in ("run", "modes"):
        assert not used & (TOP - {BUILDER, "register", "run", room})


def test_every_room_has_a_rule():
    rooms = {room_of(path) for path in FILES} - {"__init__"}
    assert rooms - ALLOWED.keys() <= TOP
    assert ALLOWED.keys() <= rooms


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_outside_packages_have_one_importer(path):
    here = {path.relative_to(ROOT).as_posix(), room_of(path)}
    for package, owners in OWNED.items():
        uses = any(n == package or n.startswith(package + ".") for n in imports_of(path))
        assert not uses or here & owners, f"{package} belongs to {owners}"


def test_modes_import_no_other_mode():
    """But `compare`, which trains."""
    for path in (ROOT / "modes").glob("*.py"):
        modes = {name.split(".")[2] for name in imports_of(path) if name.startswith("cdt.modes.")}
        assert modes <= ({"train"} if path.stem == "compare" else set())


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_functions_fit_on_a_screen(path):
    """No function is longer than 100 lines or has more than 9 parameters."""
    for node in ast.walk(ast.parse(path.read_text())):
        if not isinstance(node, ast.FunctionDef) or node.name == "default_config":
            continue
        arguments = node.args.posonlyargs + node.args.args + node.args.kwonlyargs
        named = [argument.arg for argument in arguments if argument.arg not in ("self", "cls")]
        assert node.end_lineno - node.lineno < 100, node.name
        assert len(named) <= 9, node.name


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_no_private_jax(path):
    assert not any(name.startswith("jax._src") for name in imports_of(path))
