"""Feature functions: pixels, and batches of any size through a network."""

import jax
import numpy as np
import pytest

from cdt.evals.features import in_batches, pixels


def test_pixels():
    images = np.array([0, 255, 51, 204], np.uint8).reshape(1, 2, 2, 1)
    assert pixels(images).features.dtype == np.float64
    np.testing.assert_allclose(pixels(images).features, [[-1, 1, -0.6, 0.6]], rtol=1e-15)


class Toy:
    """Each image's sum and first pixel; counts how often it is traced."""

    def __init__(self):
        self.traces = 0

    def __call__(self, params, images):
        self.traces += 1
        values = images.astype(np.float32)
        return {"sum": params * values.sum(axis=(1, 2, 3)), "first": values[:, 0, 0]}


@pytest.mark.parametrize("batch_size", [1, 8, 11])
def test_batches_of_any_number_of_images(batch_size):
    toy = Toy()
    features = in_batches(toy, np.float32(2), "toy", batch_size)
    assert features.__name__ == "toy"
    images = np.random.RandomState(0).randint(0, 256, (20, 3, 5, 3)).astype(np.uint8)
    for n in (0, 1, 8, 20):
        found = features(images[:n])
        assert found["sum"].dtype == found["first"].dtype == np.float64
        assert np.array_equal(found["sum"], 2.0 * images[:n].sum(axis=(1, 2, 3)))
        assert np.array_equal(found["first"], images[:n, 0, 0])
    assert toy.traces == 1


def test_grey_images_are_repeated():
    grey = np.random.RandomState(0).randint(0, 256, (3, 4, 4, 1)).astype(np.uint8)
    features = in_batches(Toy(), np.float32(1), "toy", 4)
    assert np.array_equal(features(grey)["first"], features(grey.repeat(3, -1))["first"])


def test_every_device_takes_its_share():
    shapes = []

    def network(params, images):
        jax.debug.inspect_array_sharding(images, callback=lambda s: shapes.append(s))
        return images[:, 0, 0, 0]

    in_batches(network, 0, "x", 16)(np.zeros((3, 2, 2, 3), np.uint8))
    assert shapes[0].shard_shape((16, 2, 2, 3)) == (2, 2, 2, 3)


@pytest.mark.parametrize(
    "images", [np.zeros((2, 4, 4, 3)), np.zeros((2, 4, 4, 4), np.uint8), np.zeros((4, 3), np.uint8)]
)
def test_other_images_are_refused(images):
    with pytest.raises(ValueError, match="features need uint8"):
        in_batches(Toy(), np.float32(1), "toy", 4)(images)
