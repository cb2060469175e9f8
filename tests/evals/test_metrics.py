"""KID, Inception Score, precision and recall against direct computations from their definitions."""

import importlib
import logging

import numpy as np
import pytest
from scipy.spatial.distance import cdist

from cdt.evals import metrics
from cdt.evals.features import Activations
from cdt.evals.frechet import Statistics, frechet_distance
from cdt.evals.inception_score import inception_score
from cdt.evals.kid import kernel_distance
from cdt.evals.precision_recall import precision_recall, radii
from cdt.evals.reference import Reference
from cdt.evals.summary import in_blocks, summarise

RNG = np.random.default_rng(0)


def gaussian_of(features):
    return Statistics(features.mean(0), np.cov(features, rowvar=False), len(features))


def test_kernel_distance_of_one_block_each_is_the_definition():
    # 20 points make ten blocks of two: the mean of ten unbiased estimates, written out as loops.
    a, b = RNG.normal(size=(20, 5)), RNG.normal(0.3, 1, size=(20, 5))
    order = np.random.default_rng(3)
    x, y = a[order.permutation(20)], b[order.permutation(20)]

    def k(p, q):
        return (p @ q / 5 + 1) ** 3

    estimates = []
    for i in range(0, 20, 2):
        p, q = x[i : i + 2], y[i : i + 2]
        cross = np.mean([k(s, t) for s in p for t in q])
        estimates.append(k(p[0], p[1]) + k(q[0], q[1]) - 2 * cross)
    value, error = kernel_distance(a, b, seed=3)
    np.testing.assert_allclose(value, np.mean(estimates), rtol=1e-12)
    np.testing.assert_allclose(error, np.std(estimates, ddof=1) / np.sqrt(10), rtol=1e-12)


def test_kernel_distance_is_unbiased_and_its_error_honest():
    # The same distribution: 0 on average, within its standard error.
    found = np.array([
        kernel_distance(*np.random.default_rng(i).normal(size=(2, 400, 4)), seed=i)
        for i in range(200)
    ])  # fmt: skip
    assert abs(found[:, 0].mean()) < 4 * found[:, 0].std() / np.sqrt(200)
    assert 0.8 < found[:, 0].std() / np.sqrt((found[:, 1] ** 2).mean()) < 1.25
    far, error = kernel_distance(RNG.normal(size=(400, 4)), RNG.normal(1, 1, size=(400, 4)))
    assert far > 10 * error


def test_inception_score_of_known_distributions():
    sure = 50.0 * np.eye(10)[np.arange(1000) % 10]
    np.testing.assert_allclose(inception_score(sure), (10, 0), rtol=1e-6, atol=1e-9)
    np.testing.assert_allclose(inception_score(np.zeros((50, 10))), (1, 0), atol=1e-12)
    logits = RNG.normal(size=(60, 7)) * 2
    p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    by_split = [
        np.exp(np.mean([np.sum(q * np.log(q / part.mean(0))) for q in part]))
        for part in (p[:20], p[20:40], p[40:])
    ]
    np.testing.assert_allclose(
        inception_score(logits + 100, split=20), (np.mean(by_split), np.std(by_split)), rtol=1e-10
    )
    assert np.isfinite(inception_score(1e4 * RNG.normal(size=(30, 5)))).all()


@pytest.mark.parametrize("block", [7, 64, 4096])
def test_precision_recall_equals_full_matrices(monkeypatch, block):
    module = importlib.import_module("cdt.evals.precision_recall")
    monkeypatch.setattr(module, "_BLOCK", block)
    samples, real, k = RNG.normal(size=(90, 3)), RNG.normal(0.7, 1.3, size=(120, 3)), 3

    def inside(points, centres):
        own = np.sort(cdist(centres, centres), axis=1)[:, k]  # column 0 is the point itself
        return np.mean(np.any(cdist(points, centres) <= own, axis=1))

    found = precision_recall(samples, real, k)
    np.testing.assert_allclose(found, (inside(samples, real), inside(real, samples)))
    assert 0 < found[0] < 1 and 0 < found[1] < 1
    assert precision_recall(samples, real, k, radii(real, k)) == found
    assert precision_recall(real, real, k) == (1.0, 1.0)
    assert precision_recall(samples + 100, real, k) == (0.0, 0.0)


def test_sets_too_small_or_of_other_dimensions():
    for metric in (kernel_distance, precision_recall):
        with pytest.raises(ValueError, match="give two sets of one feature space"):
            metric(np.zeros((30, 3)), np.zeros((30, 4)))
    with pytest.raises(ValueError, match="at least 20"):
        kernel_distance(np.zeros((19, 3)), np.zeros((30, 3)))
    with pytest.raises(ValueError, match="at least 4 in each set"):
        precision_recall(np.zeros((3, 3)), np.zeros((30, 3)))
    with pytest.raises(ValueError, match="at least 1"):
        inception_score(np.zeros((0, 3)))


def space(images):
    flat = images.reshape(len(images), -1).astype(np.float64)
    return Activations(flat, flat[:, :2], flat[:, :3] / 100)


def test_one_pass_yields_every_metric(caplog):
    images = RNG.integers(0, 256, (300, 2, 2, 1)).astype(np.uint8)
    other = RNG.integers(30, 256, (200, 2, 2, 1)).astype(np.uint8)
    samples = summarise(in_blocks(images, 64), space)
    reference = Reference("other", "0" * 64, summarise(in_blocks(other, 33), space))
    found = metrics.compare(samples, reference) | metrics.scores(samples)
    a, b = (x.reshape(-1, 4).astype(np.float64) for x in (images, other))
    expected = {
        "frechet": frechet_distance(gaussian_of(a), gaussian_of(b)),
        "frechet_spatial": frechet_distance(gaussian_of(a[:, :2]), gaussian_of(b[:, :2])),
        "inception_score": inception_score(a[:, :3] / 100)[0],
        "precision": precision_recall(a, b)[0],
        "recall": precision_recall(a, b)[1],
        "kernel": kernel_distance(a, b)[0],
    }
    for name, value in expected.items():
        np.testing.assert_allclose(found[name], value, rtol=1e-6)
    assert found["kernel_standard_error"] > 0
    with caplog.at_level(logging.WARNING):
        metrics.compare(summarise([images[:3]], space), reference)
    assert "fewer than the 4 dimensions" in caplog.text


def test_features_that_are_not_finite_are_refused():
    with pytest.raises(ValueError, match="NaN or inf"):
        summarise(
            [np.zeros((5, 2, 2, 1), np.uint8)], lambda x: Activations(np.full((5, 1), np.nan))
        )
