"""Grids of samples: which texts stand where."""

import numpy as np
import pytest
from etils import epath

from cdt.modes.sample import sample
from cdt.modes.train import train
from cdt.monitoring import plots
from cdt.run.images import Generator, class_names
from cdt.run.open_run import OpenRun
from cdt.workdir.record import recorded_class_names
from smoke_runs import smoke

IMAGES = np.random.RandomState(0).randint(0, 200, (24, 8, 8, 1)).astype(np.uint8)


NAMES = ("cat", "dog", *map(str, range(2, 12)))


def generator(labels=None, captions=None, period=0):
    condition = {} if labels is None else {"label": np.resize(labels, 24)}
    return Generator(
        sample=None,
        condition=lambda indices: {name: values[indices] for name, values in condition.items()},
        captions=captions and (lambda indices: [captions[i % len(captions)] for i in indices]),
        class_names=NAMES,
        period=period,
        mesh=None,
        batch_size=8,
    )


def test_without_conditioning_a_grid_is_pixels_alone():
    assert np.array_equal(generator().grid(IMAGES), plots.image_grid(IMAGES))


@pytest.mark.parametrize(
    "labels, columns", [([0, 1, 2], 9), ([4], 10), (range(10), 10), (range(7), 7)]
)
def test_a_column_of_one_class_has_its_name_or_number(labels, columns):
    grid = generator([*labels], period=len(labels)).grid(IMAGES)
    heads = [NAMES[label] for label in np.resize([*labels], columns)]
    assert np.array_equal(grid, plots.headed_grid(IMAGES, heads))


def test_more_classes_than_columns_are_named_below_the_images():
    grid = generator([*range(12)], period=12).grid(IMAGES)
    assert np.array_equal(grid, plots.captioned_grid(IMAGES, NAMES + NAMES))


@pytest.mark.parametrize("period, columns", [(4, 8), (0, None)])
def test_captions_stand_below_the_images(period, columns):
    captions = ["a cat", "a dog", "a hat", "an owl"]
    grid = generator([1], captions, period).grid(IMAGES)
    assert np.array_equal(grid, plots.captioned_grid(IMAGES, captions * 6, columns))


def test_fewer_images_than_columns():
    grid = generator([*range(10)], period=10).grid(IMAGES[:3])
    assert np.array_equal(grid, plots.headed_grid(IMAGES[:3], NAMES[:3]))


@pytest.mark.long  # of a run
def test_a_run_records_the_class_names_of_its_data(tmp_path, monkeypatch):
    """Sampling reads them from the workdir: it has neither the data nor the names in its config."""
    names = tuple("zero one two three four five six seven eight nine".split())
    short = {"train.duration": "2 steps", "optim.warmup": "1 steps", "sample.steps": 2}
    assert train(smoke(**short, **{"data.class_names": names}), str(tmp_path)) == 0
    assert recorded_class_names(tmp_path) == names
    shown = []
    headed_grid = plots.headed_grid
    monkeypatch.setattr(
        plots,
        "headed_grid",
        lambda images, heads: shown.append(heads) or headed_grid(images, heads),
    )
    assert sample(smoke(**short, **{"sample.num": 20}), str(tmp_path)) == 0
    assert shown == [[*names]]


@pytest.mark.parametrize("known, expected", [((), "0 1 2"), (("cat", "dog"), "cat dog 2")])
def test_a_class_without_a_name_has_its_number(tmp_path, known, expected):
    config = smoke(**{"model.num_classes": 3, "data.class_names": known})
    run = OpenRun(config, epath.Path(tmp_path), None, None)
    assert class_names(run) == tuple(expected.split())
