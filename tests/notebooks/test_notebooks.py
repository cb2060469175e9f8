"""Every notebook runs from the first cell to the last, in its own kernel."""

import os
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

from cdt.modes.train import train
from cpu_devices import xla_flags
from smoke_runs import smoke

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "notebooks"
NAMES = sorted(path.stem for path in FOLDER.glob("*.ipynb"))


def executed(name, monkeypatch, **environment):
    """Run a notebook and return it with its outputs; raise if a cell fails."""
    for key, value in environment.items():
        monkeypatch.setenv(key, str(value))
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")
    monkeypatch.setenv("XLA_FLAGS", xla_flags(1))
    monkeypatch.setenv("PYTHONPATH", f"{ROOT}{os.pathsep}{os.environ.get('PYTHONPATH', '')}")
    notebook = nbformat.read(FOLDER / f"{name}.ipynb", as_version=4)
    client = NotebookClient(notebook, timeout=600, resources={"metadata": {"path": FOLDER}})
    return client.execute()


def pictures(notebook):
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    return sum("image/png" in output.get("data", {}) for output in outputs)


def texts(notebook):
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    return "".join(output.get("text", "") for output in outputs)


def test_explore_run(tmp_path, monkeypatch):
    assert train(smoke(), str(tmp_path)) == 0
    found = executed("explore_run", monkeypatch, CDT_RUN=tmp_path)
    assert pictures(found) == 1 + 3 + 1 + 1 + 1
    assert "step 24: dit, flow, logit_normal, curriculum" in texts(found)


def test_difficulty(tmp_path, monkeypatch):
    config = f"{ROOT}/configs/digits.py:smoke"
    found = executed("difficulty", monkeypatch, CDT_CONFIG=config, CDT_STUDY=tmp_path)
    assert pictures(found) == 3
    assert (tmp_path / "difficulty" / "verdict.txt").read_text() in texts(found)


def test_bring_your_own(tmp_path, monkeypatch):
    found = executed("bring_your_own", monkeypatch, CDT_HOME=tmp_path, CDT_STEPS=20)
    assert pictures(found) == 2
    assert "frechet train" in texts(found)


@pytest.mark.parametrize("name", NAMES)
def test_they_are_kept_without_outputs(name):
    """Outputs contain paths and change with every run."""
    notebook = nbformat.read(FOLDER / f"{name}.ipynb", as_version=4)
    nbformat.validate(notebook)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert code and all(not cell.outputs and cell.execution_count is None for cell in code)
    assert NAMES == ["bring_your_own", "difficulty", "explore_run"]
