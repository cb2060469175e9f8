import numpy as np
import pytest
from PIL import Image

from cdt.difficulty.figures import relative_entropy_plot, steps_to_plot
from cdt.difficulty.relative_entropy import RelativeEntropy


def entropy(num_pairs, alone):
    u = np.arange(1, num_pairs + 1) / (num_pairs + 1)
    values = u**-2.0
    values[-1] = -1e-9  # an estimate may be
    return RelativeEntropy(
        u, u[0], values, 0.1 * np.abs(values), 1.2 * np.abs(values), u < alone, 1.0, 50, 9, 4
    )


def picture(path):
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB"))


@pytest.mark.parametrize("num_pairs", [1, 40])
@pytest.mark.parametrize("alone", [0.0, 0.3, 1.0])
def test_relative_entropy_is_drawn_whatever_stands_alone(tmp_path, num_pairs, alone):
    measured = entropy(num_pairs, alone)
    relative_entropy_plot(tmp_path / "one.png", {"flow": measured})
    image = picture(tmp_path / "one.png")
    assert len(np.unique(image.reshape(-1, 3), axis=0)) > 20
    grey = (image == 235).all(axis=-1).mean()
    assert grey > 0.1 if measured.single_point.any() else grey < 0.01
    assert [file.name for file in tmp_path.iterdir()] == ["one.png"]


def test_families_stand_side_by_side(tmp_path):
    relative_entropy_plot(tmp_path / "one.png", {"a": entropy(9, 0.3)})
    relative_entropy_plot(tmp_path / "many.png", {n: entropy(9, 0.3) for n in "abcdef"})
    one, many = picture(tmp_path / "one.png"), picture(tmp_path / "many.png")
    assert many.shape[0] == one.shape[0] and many.shape[1] > 4 * one.shape[1]


@pytest.mark.parametrize("seeds", [1, 3])
def test_steps_are_drawn_with_and_without_a_drop(tmp_path, seeds):
    steps = np.arange(1.0, 1 + seeds * 6).reshape(seeds, 6)
    steps[:, 2] = np.nan
    steps_to_plot(tmp_path / "bars.png", {"ddpm": {"50 %": steps, "90 %": 2 * steps}})
    assert len(np.unique(picture(tmp_path / "bars.png").reshape(-1, 3), axis=0)) > 20


def test_no_loss_has_dropped(tmp_path):
    steps_to_plot(tmp_path / "bars.png", {"edm": {"90 %": np.full((2, 4), np.nan)}})
    assert (tmp_path / "bars.png").stat().st_size > 0
