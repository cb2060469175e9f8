"""Who may import whom. The rules of docs/design.md, read off the source."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1] / "cdt"

MODES = {"train", "sample", "evaluate", "study", "compare", "replay"}

# package or module -> the parts of cdt it may import (itself always).
ALLOWED = {
    "diffusion": set(),
    "timesteps": set(),
    "curriculum": {"timesteps"},
    "models": set(),
    "interop": {"models"},
    "sampling": {"diffusion"},
    "data": {"atomic", "errors", "numpy_file", "progress", "signals"},
    "evals": {"atomic", "data", "numpy_file", "torch_file"},
    "torch_file": set(),
    "numpy_file": set(),
    "safetensors_file": {"atomic"},
    "comparison": set(),
    "report": {"atomic", "comparison", "plain_json"},
    "plain_json": set(),
    "atomic": set(),
    "difficulty": {
        "curriculum",
        "diffusion",
        "optim",
        "plots",
        "state",
        "step",
        "timesteps",
        "validation",
    },
    "errors": set(),
    "state": {"curriculum"},
    "optim": {"posthoc_ema"},
    "augment": set(),
    "posthoc_ema": set(),
    "sharding": set(),
    "step": {"curriculum", "timesteps", "optim", "state"},
    "validation": {"step"},
    "config": {"errors"},
    "identity": {"config"},
    "checkpoint": {"agreement", "errors", "leaves", "manifest", "orbax_noise"},
    "orbax_noise": set(),
    "agreement": {"errors"},
    "cluster": set(),
    "distributed": {"agreement", "cluster", "errors", "signals"},
    "manifest": {"errors", "leaves"},
    "compilation": set(),
    "malloc": set(),
    "signals": {"errors"},
    "lock": {"agreement", "atomic", "errors"},
    "workdir": {"atomic", "config", "errors", "identity"},
    "leaves": set(),
    "writers": {"errors"},
    "progress": set(),
    "history": {"plots"},
    "plots": {"atomic"},
}
# Programs of their own, like cdt.main.
PROGRAMS = {
    "data/latents.py",
    "interop/export_diffusers.py",
    "interop/export_safetensors.py",
    "interop/export_stablehlo.py",
    "interop/import_dit.py",
    "interop/import_edm.py",
    "interop/imported.py",  # what these two share
}
# outside package -> the only modules that may import it.
OWNED = {
    "orbax": {"checkpoint"},
    "clu.metric_writers": {"writers"},
    "tensorflow": {"writers"},
    "safetensors": {"safetensors_file"},
    "ml_collections": {"config", "identity", "build", "variants", "workdir", "main"} | MODES,
    "flax.linen": {"models"},
    "flax": {"models", "state", "leaves"},
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


FILES = sorted(ROOT.rglob("*.py"))


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_go_downward(path):
    room = room_of(path)
    inside = {name.split(".")[1] for name in imports_of(path) if name.startswith("cdt.")}
    inside = {n for n in inside if (ROOT / n).is_dir() or (ROOT / f"{n}.py").exists()}
    if room in ALLOWED:
        assert inside - {room} <= ALLOWED[room]
    if room == "compare":  # it trains its arms and describes their samples
        assert inside & MODES <= {"compare", "train", "sample"}
    elif room == "run":  # what notebooks use
        assert inside & MODES <= {"sample"}
    elif room not in MODES | {"main"}:
        assert not inside & (MODES | {"main"})
        if room != "build":
            assert "build" not in inside


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_outside_packages_have_one_importer(path):
    for package, rooms in OWNED.items():
        uses = any(n == package or n.startswith(package + ".") for n in imports_of(path))
        assert not uses or room_of(path) in rooms, f"{package} belongs to {rooms}"


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_no_private_jax(path):
    assert not any(name.startswith("jax._src") for name in imports_of(path))


def test_every_rule_names_something_that_exists():
    for name in ALLOWED:
        assert (ROOT / name).is_dir() or (ROOT / f"{name}.py").exists(), name
