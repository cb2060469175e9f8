"""Embeddings of time and label, and a change of the number of classes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cdt.models.conditioning import (
    LabelEmbedder,
    TimestepEmbedder,
    timestep_embedding,
    with_classes,
)
from cdt.models.unet import adm, ddpmpp


@pytest.mark.parametrize("time", [0.0, 0.37, 1.0, -1.55, 500.0, 999.0])
def test_timestep_embedding_formula(time):
    expected = np.empty(256)
    for i in range(128):
        angle = time * 10000.0 ** (-i / 128)
        expected[i], expected[128 + i] = np.cos(angle), np.sin(angle)
    actual = timestep_embedding(jnp.array([time], jnp.float32))
    # The rounding error of a float32 angle of 999 is up to 999 * 2^-24 = 6e-5.
    np.testing.assert_allclose(actual[0], expected, atol=2e-4)


def test_timestep_embedding_accepts_integers():
    time = jnp.array([0, 3, 999])
    np.testing.assert_array_equal(
        timestep_embedding(time), timestep_embedding(time.astype(jnp.float32))
    )


def test_timestep_embedder_has_two_layers_of_std_002():
    params = jax.jit(TimestepEmbedder(384).init)(jax.random.key(0), jnp.zeros(1))["params"]
    for layer, d_in in {"in": 256, "out": 384}.items():
        assert params[layer]["kernel"].shape == (d_in, 384)
        assert np.std(params[layer]["kernel"]) == pytest.approx(0.02, rel=0.02)
        np.testing.assert_array_equal(params[layer]["bias"], 0)


def test_label_embedder_returns_rows_exactly():
    module = LabelEmbedder(num_classes=10, hidden_size=64)
    label = jnp.array([3, 10, 0, 3])
    params = jax.jit(module.init)(jax.random.key(0), label)
    table = params["params"]["table"]
    assert table.shape == (11, 64)  # the null class has a row
    assert np.std(table) == pytest.approx(0.02, rel=0.1)
    np.testing.assert_array_equal(jax.jit(module.apply)(params, label), table[label])


def test_label_embedder_gradient_counts_labels():
    module = LabelEmbedder(num_classes=3, hidden_size=2)
    label = jnp.array([1, 1, 3])
    params = jax.jit(module.init)(jax.random.key(0), label)
    gradient = jax.grad(lambda p: module.apply(p, label).sum())(params)["params"]["table"]
    np.testing.assert_array_equal(gradient, [[0, 0], [2, 2], [0, 0], [1, 1]])


@pytest.mark.parametrize("make", [adm, ddpmpp])
def test_a_unet_with_other_classes(make):
    """The classes are those of the fresh network, all else is trained, also the bias of DDPM++."""

    def params(num_classes, seed):
        network = make(
            channels=32, channel_mult=(1,), num_blocks=1, attention_resolutions=(), dropout=0.0,
            out_channels=1, num_classes=num_classes,
        )  # fmt: skip
        label = None if num_classes is None else jnp.zeros(1, jnp.int32)
        shapes = jax.eval_shape(
            network.init, jax.random.key(0), jnp.zeros((1, 4, 4, 1)), jnp.zeros(1), label
        )["params"]
        rng = np.random.default_rng(seed)
        return jax.tree.map(lambda leaf: rng.standard_normal(leaf.shape, np.float32), shapes)

    trained, fresh, unconditional = params(7, 0), params(3, 1), params(None, 2)
    found = with_classes(fresh, trained)
    label = found["condition"].pop("label")
    assert label["kernel"] is fresh["condition"]["label"]["kernel"]
    if make is ddpmpp:
        assert label["bias"] is trained["condition"]["label"]["bias"]
    trained["condition"].pop("label")
    assert jax.tree.all(jax.tree.map(lambda a, b: a is b, found, trained))

    assert with_classes(fresh, fresh) is fresh
    found = with_classes(fresh, unconditional)
    assert found["condition"]["label"] == fresh["condition"]["label"]
    assert found["final"] is unconditional["final"]
    assert with_classes(unconditional, unconditional) is unconditional
