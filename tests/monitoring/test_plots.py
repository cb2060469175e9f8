"""Grids and plots: correct pixels, valid files, and no error for unusual losses."""

import warnings

import numpy as np
import pytest
from PIL import Image

from cdt.monitoring.plots import (
    captioned_grid,
    convergence_plot,
    headed_grid,
    image_grid,
    normalised_convergence,
    save_png,
)


def test_grid_places_every_image():
    images = np.random.RandomState(0).randint(0, 200, (5, 3, 4, 3)).astype(np.uint8)
    grid = image_grid(images, columns=2, scale=10)
    gap = 2
    assert grid.shape == (3 * 30 + 4 * gap, 2 * 40 + 3 * gap, 3) and grid.dtype == np.uint8
    for i in range(5):
        top, left = gap + (i // 2) * (30 + gap), gap + (i % 2) * (40 + gap)
        cell = grid[top : top + 30, left : left + 40]
        assert np.array_equal(cell[::10, ::10], images[i])
        assert np.array_equal(cell[9::10, 9::10], images[i])
    assert (grid[-32:, -42:] == 255).all()  # the sixth place is empty
    assert (grid[:gap] == 255).all() and (grid[:, :gap] == 255).all()


@pytest.mark.parametrize("n, side, shape", [(16, 8, (276, 276, 1)), (1, 8, (72, 72, 1))])
def test_grid_defaults(n, side, shape):
    assert image_grid(np.zeros((n, side, side, 1), np.uint8)).shape == shape


def test_grid_leaves_large_images_at_their_size():
    assert image_grid(np.zeros((2, 256, 256, 3), np.uint8), columns=2).shape == (288, 560, 3)


@pytest.mark.parametrize("channels", [1, 3])
def test_captions_stand_below_their_images(channels):
    images = np.random.RandomState(0).randint(0, 200, (3, 64, 64, channels)).astype(np.uint8)
    grid = captioned_grid(images, ["a dog", "", "words " * 50], columns=2)
    assert grid.shape == (2 * (128 + 34) + 3 * 8, 2 * 128 + 3 * 8, 3) and grid.dtype == np.uint8
    below = []
    for i in range(3):
        top, left = 8 + (i // 2) * (128 + 34 + 8), 8 + (i % 2) * 136
        assert (grid[top : top + 128 : 2, left : left + 128 : 2] == images[i]).all()
        below.append(grid[top + 128 : top + 128 + 34, left : left + 128].min(axis=(1, 2)) < 255)
    assert below[0].any() and not below[0][18:].any()  # one line
    assert not below[1].any()
    assert below[2][:16].any() and below[2][18:].any()  # two, and no third
    assert (grid[:, -8:] == 255).all() and (grid[-8:] == 255).all()


@pytest.mark.parametrize("channels", [1, 3])
def test_heads_stand_above_the_pixels_of_the_grid(channels):
    images = np.random.RandomState(0).randint(0, 200, (5, 28, 28, channels)).astype(np.uint8)
    grid, plain = headed_grid(images, ["T-shirt/top", "", "Ankle boot"]), image_grid(images, 3)
    strip = grid[: -len(plain)]
    assert np.array_equal(grid[-len(plain) :], plain)
    assert len(strip) == 2 * 15 + 3 and grid.dtype == np.uint8
    one, none, two = np.split(strip.min(axis=(0, 2), initial=255, where=strip < 200), [60, 119])
    assert (one < 200).any() and (none == 255).all() and (two < 200).any()
    # The head of one line is in the lower of the two lines.
    assert (strip[:17, :60] == 255).all() and (strip[:17, 119:] < 200).any()


@pytest.mark.parametrize("text", ["incomprehensibilities", "a b c d e f g h i j k l m n o p q r s"])
def test_a_head_is_cut_to_its_column(text):
    images = np.zeros((2, 64, 64, 1), np.uint8)
    strip = headed_grid(images, [text, ""])[: -len(image_grid(images, 2))]
    assert (strip[:, :70] < 200).any() and (strip[:, 70:] == 255).all()


@pytest.mark.parametrize("channels", [1, 3])
def test_png_keeps_every_pixel(tmp_path, channels):
    image = np.random.RandomState(0).randint(0, 256, (9, 7, channels)).astype(np.uint8)
    path = tmp_path / "grid.png"
    path.write_bytes(b"older")
    save_png(path, image)
    assert np.array_equal(np.asarray(Image.open(path)).reshape(image.shape), image)
    assert [p.name for p in tmp_path.iterdir()] == ["grid.png"]


def test_normalised_convergence():
    losses = np.array([[5.0, 1.0, 2.0, np.nan], [2.0, 1.0, 2.5, 1.0], [1.0, 1.0, 3.0, 1.0]])
    curves = normalised_convergence(losses)
    np.testing.assert_allclose(curves[:, 0], [1, 0.25, 0])
    assert np.isnan(curves[:, 1:]).all()  # flat, risen, unknown


def falling(k, n):
    steps = np.linspace(0, 1000, k).astype(int)
    return steps, 0.1 + np.exp(-steps[:, None] / np.linspace(500, 50, n))


@pytest.mark.parametrize(
    "k, n",
    # Each number of steps and of clusters once; the long ones are the other pairs.
    [pytest.param(k, n, marks=[] if (k, n) in ((1, 1), (2, 2), (30, 20), (2, 100)) else
                  [pytest.mark.long]) for k in (1, 2, 30) for n in (1, 2, 20, 100)],
)  # fmt: skip
def test_convergence_plot_of_any_size(tmp_path, n, k):
    _check_plot(tmp_path, *falling(k, n), stage_starts=np.linspace(0, 500, n))


@pytest.mark.parametrize(
    "spoil",
    [
        lambda losses: np.full_like(losses, 0.7),
        lambda losses: np.full_like(losses, np.nan),
        lambda losses: np.where(np.arange(5) == 2, np.nan, losses),
        lambda losses: np.where(np.arange(5) == 2, np.inf, losses),
        lambda losses: losses - 0.5,  # negative, as losses with a learned weight can be
        lambda losses: losses[::-1],  # rising
        lambda losses: losses * 0,
    ],
    ids=["constant", "all NaN", "NaN", "infinite", "negative", "rising", "zero"],
)
def test_convergence_plot_of_strange_losses(tmp_path, spoil):
    steps, losses = falling(30, 5)
    _check_plot(tmp_path, steps, spoil(losses))


def _check_plot(folder, steps, losses, **kwargs):
    path = folder / "convergence.png"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        convergence_plot(path, steps, losses, **kwargs)
    image = np.asarray(Image.open(path).convert("RGB"))
    height, width, _ = image.shape
    assert 450 < height < 650 and 1200 < width < 1400
    assert image.std() > 10  # not an empty page
