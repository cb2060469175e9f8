"""The figures of docs/concepts.md are reproduced by their script from a real run."""

import runpy

import numpy as np
import pytest
from PIL import Image

from doc_pages import ROOT

MAKE = runpy.run_path(str(ROOT / "docs" / "figures" / "make.py"))


def test_the_pacing_function_gives_the_stages_that_the_run_logged():
    run = MAKE["read_run"]()
    stages = MAKE["paced"](np.array(run["loss"])).stage
    assert stages[0] == 1 and stages[1:].tolist() == run["stage"]


@pytest.mark.long  # runs the whole script, which takes seconds
@pytest.mark.parametrize("name", MAKE["FIGURES"])
def test_figures_are_reproduced(name, tmp_path):
    """Equal except for fonts, which differ between versions of matplotlib."""
    MAKE["FIGURES"][name](tmp_path / name)
    made = np.asarray(Image.open(tmp_path / name).convert("L"), float)
    kept = np.asarray(Image.open(ROOT / "docs" / "images" / name).convert("L"), float)
    assert made.shape == kept.shape
    assert np.abs(made - kept).mean() < 2.0
