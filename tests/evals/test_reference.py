"""Reference statistics: right, cached by content, and never trusted when damaged."""

import numpy as np
import pytest

from cdt.data.sources import digits, mock
from cdt.evals.features import pixels
from cdt.evals.reference import reference_statistics


class Counted:
    """A feature function that counts its calls, under the name `pixels`."""

    def __init__(self, name="pixels"):
        self.calls = 0
        self.__name__ = name

    def __call__(self, images):
        self.calls += 1
        return pixels(images)


def test_statistics_of_the_whole_source(tmp_path):
    source = digits("train")
    found, key = reference_statistics(source, pixels, tmp_path / "not" / "yet")
    features = pixels(source.images(np.arange(1500)))
    np.testing.assert_allclose(found.mu, features.mean(0))
    np.testing.assert_allclose(found.sigma, np.cov(features, rowvar=False), atol=1e-14)
    assert found.n == 1500 and len(key) == 64


def test_second_call_reads_the_file(tmp_path):
    first, again = Counted(), Counted()
    stats, key = reference_statistics(digits("test"), first, tmp_path)
    cached, same_key = reference_statistics(digits("test"), again, tmp_path)
    assert first.calls == 1 and again.calls == 0 and key == same_key
    assert np.array_equal(stats.mu, cached.mu) and np.array_equal(stats.sigma, cached.sigma)
    assert stats.n == cached.n
    assert len(list(tmp_path.iterdir())) == 1  # no partial file is left


def test_key_tells_data_and_feature_space_apart(tmp_path):
    keys = {
        reference_statistics(source, Counted(name), tmp_path)[1]
        for source in (digits("test"), mock("test", 8, 1, 10, 50))
        for name in ("pixels", "other")
    }
    assert len(keys) == len(list(tmp_path.iterdir())) == 4


@pytest.mark.parametrize("seed", range(4))
def test_damaged_cache_is_recomputed(tmp_path, seed):
    source = mock("test", 4, 1, None, 20)
    stats, _ = reference_statistics(source, pixels, tmp_path)
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
        found, _ = reference_statistics(source, pixels, tmp_path)
        # A flip in a field that carries no data (a time stamp) may pass; the numbers never change.
        assert np.array_equal(found.mu, stats.mu) and np.array_equal(found.sigma, stats.sigma)
        assert found.n == stats.n
        path.write_bytes(whole)
