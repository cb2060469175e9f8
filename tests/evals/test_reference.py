"""Reference statistics: correct, cached by content, in ADM's form; damaged files are replaced."""

import numpy as np
import pytest

from cdt.data.sources import digits, mock
from cdt.evals.features import Activations, pixels
from cdt.evals.reference import file_reference, source_reference


class Counted:
    """A feature function that counts its calls, under the name `pixels`."""

    def __init__(self, name="pixels"):
        self.calls = 0
        self.__name__ = name

    def __call__(self, images):
        self.calls += 1
        return pixels(images)


def with_space(images):
    """Features and spatial features."""
    flat = pixels(images).features
    return Activations(flat[:, ::2], flat[:, :3], None)


def test_statistics_of_the_whole_source(tmp_path):
    source = digits("train")
    found = source_reference(source, pixels, tmp_path / "not" / "yet")
    features = pixels(source.images(np.arange(1500))).features
    mine = found.summary.statistics
    np.testing.assert_allclose(mine.mu, features.mean(0))
    np.testing.assert_allclose(mine.sigma, np.cov(features, rowvar=False), atol=1e-14)
    assert mine.n == 1500 and len(found.hash) == 64 and found.name == source.name
    np.testing.assert_array_equal(found.summary.features, features.astype(np.float32))


@pytest.mark.parametrize("space", [pixels, with_space])
def test_second_call_reads_the_file(tmp_path, space):
    calls = []

    def counted(images):
        calls.append(len(images))
        return space(images)

    stats = source_reference(digits("test"), counted, tmp_path)
    once = len(calls)
    cached = source_reference(digits("test"), counted, tmp_path)
    assert once == len(calls) == 1 and stats.hash == cached.hash
    assert_same(stats.summary, cached.summary)
    assert len(list(tmp_path.iterdir())) == 1  # no partial file is left
    # ... and the file is one of ADM's form.
    (path,) = tmp_path.iterdir()
    assert_same(stats.summary, file_reference(path, counted).summary)
    assert len(calls) == 1
    with pytest.raises(
        ValueError, match="features 'counted'; give a file for the features 'pixels'"
    ):
        file_reference(path, Counted())


def assert_same(a, b):
    for x, y in ((a.statistics, b.statistics), (a.spatial, b.spatial)):
        assert (x is None) == (y is None)
        if x is not None:
            assert np.array_equal(x.mu, y.mu) and np.array_equal(x.sigma, y.sigma) and x.n == y.n
    assert np.array_equal(a.features, b.features)


def test_only_evenly_spaced_features_of_a_large_set_are_kept(tmp_path):
    source = mock("train", 2, 1, None, size=25_000)
    found = source_reference(source, pixels, tmp_path)
    assert found.summary.statistics.n == 25_000
    every_third = pixels(source.images(np.arange(0, 25_000, 3))).features
    np.testing.assert_array_equal(found.summary.features, every_third.astype(np.float32))


def test_files_of_images_statistics_and_both(tmp_path):
    images = digits("test").images(np.arange(100))
    np.savez(tmp_path / "images.npz", images)
    own = file_reference(tmp_path / "images.npz", pixels)
    assert own.summary.statistics.n == 100 and own.summary.features.shape == (100, 64)
    mu, sigma = np.ones(64), np.eye(64)
    np.savez(
        tmp_path / "both.npz", arr_0=images, mu=mu, sigma=sigma, mu_s=mu[:3], sigma_s=sigma[:3, :3]
    )
    both = file_reference(tmp_path / "both.npz", pixels)
    np.testing.assert_array_equal(both.summary.statistics.mu, mu)
    np.testing.assert_array_equal(both.summary.features, own.summary.features)
    assert both.summary.spatial.mu.shape == (3,)
    np.savez(tmp_path / "stats.npz", mu=mu, sigma=sigma)
    assert file_reference(tmp_path / "stats.npz", pixels).summary.features is None
    np.savez(tmp_path / "wrong.npz", mu=mu, sigma=sigma[:3])
    with pytest.raises(ValueError, match="their shapes must be"):
        file_reference(tmp_path / "wrong.npz", pixels)
    with pytest.raises(ValueError, match="does not exist"):
        file_reference(tmp_path / "nowhere.npz", pixels)


def test_key_tells_data_and_feature_space_apart(tmp_path):
    keys = {
        source_reference(source, Counted(name), tmp_path).hash
        for source in (digits("test"), mock("test", 8, 1, 10, 50))
        for name in ("pixels", "other")
    }
    assert len(keys) == len(list(tmp_path.iterdir())) == 4


@pytest.mark.parametrize("seed", range(4))
def test_damaged_cache_is_recomputed(tmp_path, seed):
    source = mock("test", 4, 1, None, 20)
    right = source_reference(source, pixels, tmp_path).summary
    (path,) = tmp_path.iterdir()
    whole = path.read_bytes()
    rng = np.random.RandomState(seed)
    for _ in range(50):
        if rng.rand() < 0.2:
            damaged = whole[: rng.randint(len(whole))]
        else:
            damaged = bytearray(whole)
            damaged[rng.randint(len(whole))] ^= 1 << rng.randint(8)
        path.write_bytes(bytes(damaged))
        # A flip in a field that carries no data (a time stamp) may pass; the numbers never change.
        assert_same(source_reference(source, pixels, tmp_path).summary, right)
        path.write_bytes(whole)
