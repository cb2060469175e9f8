"""Layers are folded and padded exactly."""

import numpy as np
import pytest

from cdt.evals.folded_layers import Layer, convolve, fold_batch_norm


def random_state(rng, kernel):
    state = {"c.weight": rng.randn(*kernel)}
    state |= {f"n.{x}": rng.randn(kernel[0]) for x in ("weight", "bias", "running_mean")}
    state["n.running_var"] = rng.rand(kernel[0])
    return {name: x.astype(np.float32) for name, x in state.items()}


def test_folded_layer_is_convolution_then_normalisation():
    state = random_state(np.random.RandomState(0), (4, 3, 3, 2))
    x = np.random.RandomState(1).randn(3, 2, 3).astype(np.float32)  # one window, channels last
    folded = fold_batch_norm(state, "c", "n", 1e-3)
    expected = np.einsum("ochw,hwc->o", state["c.weight"].astype(np.float64), x)
    expected = (expected - state["n.running_mean"]) / np.sqrt(state["n.running_var"] + 1e-3)
    expected = expected * state["n.weight"] + state["n.bias"]
    found = convolve(folded, x[None], padding="VALID")
    np.testing.assert_allclose(found[0, 0, 0], expected, rtol=1e-5, atol=1e-5)


def test_folding_names_what_is_missing():
    state = random_state(np.random.RandomState(0), (4, 3, 1, 1))
    del state["n.bias"]
    with pytest.raises(ValueError, match="lack n.bias;"):
        fold_batch_norm(state, "c", "n", 1e-3)


def test_padding_of_stride_two_is_at_the_end():
    """TensorFlow pads an even length by 0 before and by 1 after, unlike PyTorch."""
    ones = Layer(np.ones((3, 3, 1, 1), np.float32), np.zeros(1, np.float32))
    x = np.arange(4, dtype=np.float32) * np.ones((4, 1), np.float32)
    found = convolve(ones, x[None, :, :, None], stride=2)[0, :, :, 0]
    assert np.array_equal(found, [[9, 15], [6, 10]])
