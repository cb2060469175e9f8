"""Validation loss per cluster: noise levels, fixed noise, inputs."""

import jax
import jax.numpy as jnp
import numpy as np

from cdt.curriculum.clusters import edge_table
from cdt.training.validation import make_validation

EDGES = edge_table(np.array([0.0, 0.1, 0.4, 1.0]), None)
BATCH = {
    "image": jnp.asarray(np.random.default_rng(0).integers(0, 256, (8, 4, 4, 1)), jnp.uint8),
    "label": jnp.arange(8, dtype=jnp.int32),
}


def test_levels_are_midpoints_of_equal_parts_of_each_cluster():
    def loss(params, x0, eps, u, condition, key):
        assert key is None  # nothing is random except the fixed noise
        return u, u

    means = make_validation(loss, EDGES, seed=0)(None, BATCH)
    np.testing.assert_allclose(means, [0.05, 0.25, 0.7], rtol=1e-6)

    def loss_of_levels(params, x0, eps, u, condition, key):
        return (u - u.mean()) ** 2, u

    variances = make_validation(loss_of_levels, EDGES, seed=0)(None, BATCH)
    width = np.diff(EDGES)
    np.testing.assert_allclose(variances, width**2 / 12 * (1 - 1 / 64), rtol=1e-4)


def test_noise_is_fixed_by_seed_and_cluster():
    def loss(params, x0, eps, u, condition, key):
        return params * eps.mean(axis=(1, 2, 3)), u

    validate = jax.jit(make_validation(loss, EDGES, seed=3))
    once, again = validate(1.0, BATCH), validate(1.0, BATCH)
    np.testing.assert_array_equal(once, again)
    np.testing.assert_allclose(validate(2.0, BATCH), 2 * once, rtol=1e-6)
    assert len(set(np.asarray(once).tolist())) == 3  # each cluster has different noise
    other = jax.jit(make_validation(loss, EDGES, seed=4))(1.0, BATCH)
    assert not np.array_equal(once, other)


def test_images_and_labels_reach_the_loss():
    def loss(params, x0, eps, u, condition, key):
        return x0.mean(axis=(1, 2, 3)) + condition["label"], u

    means = make_validation(loss, EDGES, seed=0)(None, BATCH)
    expected = np.asarray(BATCH["image"], np.float64).mean() / 127.5 - 1 + 3.5
    np.testing.assert_allclose(means, [expected] * 3, rtol=1e-5)
