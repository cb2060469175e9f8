"""Running means per bin against a Python loop, and the probabilities computed from them."""

import jax.numpy as jnp
import numpy as np
import pytest

from cdt.timesteps import bins

RNG = np.random.default_rng(0)


def test_observe_equals_a_loop():
    decay, k = 0.8, 5
    means, mean, count = bins.empty_means(k), np.zeros(k), np.zeros(k)
    for _ in range(20):
        index, values = RNG.integers(0, 4, 16), RNG.random(16)
        values[RNG.integers(16)] = np.nan
        means = bins.observe(means, jnp.asarray(index), jnp.asarray(values), decay)
        for b in range(k):
            mine = [v for i, v in zip(index, values, strict=True) if i == b and np.isfinite(v)]
            if mine:
                fraction = 1 - decay ** len(mine) if count[b] else 1.0
                mean[b] += fraction * (np.mean(mine) - mean[b])
                count[b] += len(mine)
    np.testing.assert_allclose(means.mean, mean, rtol=1e-5)
    np.testing.assert_array_equal(means.count, count)
    assert means.count[4] == 0  # never drawn
    np.testing.assert_allclose(bins.filled(means)[4], mean[:4].mean(), rtol=1e-5)


@pytest.mark.parametrize("observed", [[0, 3, 4, 7], [2], [5, 6], [0, 7]])
def test_gaps_are_interpolated(observed):
    values = RNG.random(8)
    count = np.isin(np.arange(8), observed).astype(np.float32)
    means = bins.BinMeans(jnp.asarray(values * count, jnp.float32), jnp.asarray(count))
    expected = np.interp(np.arange(8), observed, values[observed])
    np.testing.assert_allclose(bins.interpolated(means), expected, rtol=1e-5)


def test_bin_index_matches_the_knots():
    knots = np.array([0, 0.1, 0.5, 1], np.float32)
    u = np.array([0, 0.05, 0.1, 0.49, 0.5, 0.999], np.float32)
    np.testing.assert_array_equal(bins.bin_index(jnp.asarray(u), knots), [0, 0, 1, 1, 2, 2])


@pytest.mark.parametrize("counts, ready", [([0, 0], 0), ([9, 0], 0), ([10, 0], 1), ([10, 9], 0)])
def test_warm_checks_every_bin_that_was_drawn(counts, ready):
    means = bins.BinMeans(jnp.ones(2), jnp.asarray(counts, jnp.float32))
    assert bool(bins.warm(means, 10)) == bool(ready)


def test_probabilities_without_a_usable_mass_are_uniform():
    widths = jnp.array([0.25, 0.75])
    for mass in ([0.0, 0.0], [np.nan, 1.0], [np.inf, 1.0]):
        np.testing.assert_allclose(bins.normalised(jnp.array(mass), widths, 0.1), widths)
    np.testing.assert_allclose(
        bins.normalised(jnp.array([3.0, 1.0]), widths, 0.1), [0.7, 0.3], rtol=1e-6
    )
