"""SiT's direction of time, checked on the network."""

import jax
import numpy as np

from cdt.interop.sit import mean_channels, reversed_time
from cdt.models.dit import DiT


def test_minus_the_output_at_the_other_time():
    network = DiT(2, 32, 2, num_heads=4, out_channels=3, num_classes=5)
    rng = np.random.default_rng(0)
    x = rng.standard_normal((7, 8, 8, 3), np.float32)
    time, label = np.linspace(0, 1, 7, dtype=np.float32), np.arange(7, dtype=np.int32) % 6
    shapes = jax.eval_shape(network.init, jax.random.key(0), x, time, label)["params"]
    params = jax.tree.map(lambda leaf: 0.1 * rng.standard_normal(leaf.shape, np.float32), shapes)
    theirs = jax.jit(network.apply)({"params": params}, x, time, label)
    ours = jax.jit(network.apply)({"params": reversed_time(params)}, x, 1 - time, label)
    assert np.linalg.norm(ours + theirs) < 1e-5 * np.linalg.norm(theirs)
    # The output does depend on the time.
    assert (
        np.abs(jax.jit(network.apply)({"params": params}, x, 1 - time, label) - theirs).max() > 0.01
    )
    twice = reversed_time(reversed_time(params))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), twice, params)


def test_the_variance_is_left_out():
    p, channels, width = 2, 3, 4
    full = np.arange(p * p * 2 * channels * width).reshape(p, p, 2 * channels, width)
    kept = mean_channels(full.reshape(-1, width), channels).reshape(p, p, channels, width)
    np.testing.assert_array_equal(kept, full[:, :, :channels])
