"""Frechet distance and its statistics against closed forms and other programs."""

import numpy as np
import pytest
import scipy.linalg

from cdt.data.sources import digits
from cdt.evals.features import pixels
from cdt.evals.frechet import RunningStatistics, Statistics, frechet_distance


def statistics(batches):
    running = RunningStatistics()
    for batch in batches:
        running.add(batch)
    return running.result()


def random_statistics(rng, dim):
    samples = rng.randn(4 * dim, dim) @ rng.randn(dim, dim)
    return Statistics(rng.randn(dim), np.cov(samples, rowvar=False), 4 * dim)


def test_diagonal_gaussians():
    rng = np.random.RandomState(0)
    mu_a, mu_b, sd_a, sd_b = rng.randn(4, 30)
    a = Statistics(mu_a, np.diag(sd_a**2), 99)
    b = Statistics(mu_b, np.diag(sd_b**2), 99)
    expected = np.sum((mu_a - mu_b) ** 2) + np.sum((np.abs(sd_a) - np.abs(sd_b)) ** 2)
    np.testing.assert_allclose(frechet_distance(a, b), expected, rtol=1e-12)


def test_commuting_covariances():
    rng = np.random.RandomState(1)
    basis = np.linalg.qr(rng.randn(40, 40))[0]
    var_a, var_b = rng.gamma(1.0, size=(2, 40))
    a = Statistics(np.zeros(40), basis * var_a @ basis.T, 99)
    b = Statistics(np.zeros(40), basis * var_b @ basis.T, 99)
    expected = np.sum((np.sqrt(var_a) - np.sqrt(var_b)) ** 2)
    np.testing.assert_allclose(frechet_distance(a, b), expected, rtol=1e-11)


@pytest.mark.parametrize("dim", [1, 5, 64])
def test_against_scipy_where_it_is_well_conditioned(dim):
    rng = np.random.RandomState(dim)
    a, b = random_statistics(rng, dim), random_statistics(rng, dim)
    a, b = (s._replace(sigma=np.atleast_2d(s.sigma)) for s in (a, b))
    root = np.real(scipy.linalg.sqrtm(a.sigma @ b.sigma))
    expected = np.sum((a.mu - b.mu) ** 2) + np.trace(a.sigma + b.sigma - 2 * root)
    np.testing.assert_allclose(frechet_distance(a, b), expected, rtol=1e-9)
    np.testing.assert_allclose(frechet_distance(b, a), expected, rtol=1e-9)


def test_fewer_samples_than_dimensions():
    # Closed form for rank one: (sigma_a sigma_b)^(1/2) has trace |<u, v>|, u and v the directions.
    u, v = np.random.RandomState(2).randn(2, 200)
    a = Statistics(np.zeros(200), np.outer(u, u), 2)
    b = Statistics(np.zeros(200), np.outer(v, v), 2)
    expected = u @ u + v @ v - 2 * abs(u @ v)
    np.testing.assert_allclose(frechet_distance(a, b), expected, rtol=1e-6)
    assert 0 <= frechet_distance(a, a) < 1e-10 * (u @ u)


def test_translation_alone():
    rng = np.random.RandomState(3)
    a = random_statistics(rng, 50)
    b = a._replace(mu=a.mu + 2.0)
    np.testing.assert_allclose(frechet_distance(a, b), 200.0, rtol=1e-10)


@pytest.mark.parametrize("batch", [1, 7, 100, 1000])
def test_statistics_against_numpy(batch):
    features = np.random.RandomState(4).randn(300, 12) @ np.diag(np.arange(1.0, 13)) + 5
    found = statistics(features[i : i + batch] for i in range(0, 300, batch))
    np.testing.assert_allclose(found.mu, features.mean(0), rtol=1e-12)
    np.testing.assert_allclose(found.sigma, np.cov(features, rowvar=False), rtol=1e-10, atol=1e-12)
    assert found.n == 300 and found.mu.dtype == found.sigma.dtype == np.float64


def test_statistics_are_stable_under_a_large_mean():
    # Sums of squares would lose all 16 digits here.
    features = np.random.RandomState(5).randn(1000, 3)
    found = statistics(np.split(features + 1e8, 20))
    np.testing.assert_allclose(found.sigma, np.cov(features, rowvar=False), atol=1e-6)


def test_statistics_take_float32_and_empty_batches():
    features = np.random.RandomState(6).rand(50, 4).astype(np.float32)
    found = statistics([features[:0], features[:20], features[20:20], features[20:]])
    np.testing.assert_allclose(found.sigma, np.cov(features.astype(np.float64), rowvar=False))


@pytest.mark.parametrize("count", [0, 1])
def test_statistics_need_two(count):
    with pytest.raises(ValueError, match=f"is {count}; a covariance needs at least 2"):
        statistics([np.zeros((count, 3))])


def test_errors():
    a = Statistics(np.zeros(3), np.eye(3), 10)
    with pytest.raises(ValueError, match="3 and 4 dimensions"):
        frechet_distance(a, Statistics(np.zeros(4), np.eye(4), 10))
    for bad in (np.nan, np.inf):
        with pytest.raises(ValueError, match="NaN or inf"):
            frechet_distance(a, a._replace(mu=np.array([0, bad, 0])))
        with pytest.raises(ValueError, match="NaN or inf"):
            frechet_distance(a._replace(sigma=np.diag([1, 1, bad])), a)


def test_scale_of_the_distance_on_digits():
    """Distances to compare the digits run with: data to data, and noise to data."""
    images = digits("train").images(np.arange(1500))
    data = statistics([pixels(images).features])
    halves = statistics([pixels(images[::2]).features]), statistics([pixels(images[1::2]).features])
    assert 0.3 < frechet_distance(*halves) < 0.5
    rng = np.random.RandomState(0)
    gaussian = statistics([rng.randn(2000, 64)])
    assert 60 < frechet_distance(data, gaussian) < 64
    uniform = rng.randint(0, 256, (2000, 8, 8, 1)).astype(np.uint8)
    assert 38 < frechet_distance(data, statistics([pixels(uniform).features])) < 42
