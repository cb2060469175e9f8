"""Nearest-neighbour distance against brute force."""

import numpy as np
import pytest

from cdt.evals.neighbours import mean_nearest_distance


@pytest.mark.parametrize("block", [1, 7, 50, 1000])
def test_against_brute_force(block):
    rng = np.random.RandomState(0)
    a, b = rng.randn(50, 6), rng.randn(83, 6)
    distance = np.sqrt(((a[:, None] - b) ** 2).sum(-1))
    np.testing.assert_allclose(mean_nearest_distance(a, b, block), distance.min(1).mean())


def test_copies_are_at_distance_zero():
    features = np.random.RandomState(1).randn(40, 64) + 1e6
    assert mean_nearest_distance(features[::-1], features) == 0.0


def test_close_neighbours_keep_their_precision():
    features = 10 * np.random.RandomState(2).randn(40, 64) + 100
    shifted = features + 1e-7 / 8  # a distance of 1e-7 in 64 dimensions
    np.testing.assert_allclose(mean_nearest_distance(shifted, features), 1e-7, rtol=1e-6)


def test_errors():
    with pytest.raises(ValueError, match="3 and 4 dimensions"):
        mean_nearest_distance(np.zeros((2, 3)), np.zeros((2, 4)))
    with pytest.raises(ValueError, match="have 2 and 0 images"):
        mean_nearest_distance(np.zeros((2, 3)), np.zeros((0, 3)))
