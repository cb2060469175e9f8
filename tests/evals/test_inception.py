"""Parts of the FID's Inception that need no weights; tests/peers tests the network."""

import numpy as np
import pytest

from cdt.evals.inception import WEIGHTS, _average_pool, _resize, inception, parameters


def test_resize_is_that_of_tensorflow_1():
    """Output pixel i is at input pixel i H / 299, measured from the corner."""
    rows, columns = 23, 598
    image = 3.0 * np.arange(rows)[:, None] + 7.0 * np.arange(columns)
    found = np.asarray(_resize(image[None, :, :, None].astype(np.float32)))
    row = np.minimum(np.arange(299) * rows / 299, rows - 1)  # beyond the last row it stays
    expected = 3 * row[:, None] + 7 * 2 * np.arange(299)
    assert found.shape == (1, 299, 299, 1)
    np.testing.assert_allclose(found[0, :, :, 0], expected, rtol=1e-5)


def test_resize_to_the_same_size_changes_nothing():
    image = np.random.RandomState(0).rand(1, 299, 299, 3).astype(np.float32)
    assert np.array_equal(_resize(image), image)


def test_average_leaves_padding_out():
    x = np.arange(12, dtype=np.float32).reshape(1, 3, 4, 1)
    found = np.asarray(_average_pool(x))[0, :, :, 0]
    image = x[0, :, :, 0]
    expected = [
        [image[max(i - 1, 0) : i + 2, max(j - 1, 0) : j + 2].mean() for j in range(4)]
        for i in range(3)
    ]
    np.testing.assert_allclose(found, expected, rtol=1e-6)


@pytest.mark.parametrize("state", [{}, {"fc.weight": np.zeros((1000, 2048), np.float32)}])
def test_weights_of_another_network(state):
    with pytest.raises(ValueError, match="not those of the FID's Inception-V3"):
        parameters(state)


def test_the_published_file_is_verified(tmp_path):
    path = tmp_path / "other.pth"
    path.write_bytes(b"other")
    with pytest.raises(ValueError, match="pt_inception-2015-12-05-6726825d.pth from https://"):
        inception(path)
    assert WEIGHTS.sha256.startswith("6726825d") and len(WEIGHTS.sha256) == 64
