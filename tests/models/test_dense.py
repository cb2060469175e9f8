"""Dense layers: the variants for each backend are equal, and gradients are summed in float32."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cdt.models import dense


def normal(seed, *shape):
    return jax.random.normal(jax.random.key(seed), shape)


def value_and_gradient(module, params, x):
    def loss(params, x):
        return sum(jnp.sum(jnp.sin(y)) for y in jax.tree.leaves(module.apply(params, x)))

    return jax.jit(jax.value_and_grad(loss, (0, 1)))(params, x)


def assert_close(ours, expected):
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5), ours, expected
    )


@pytest.mark.parametrize("cpu", [True, False])
@pytest.mark.parametrize("features", [3, 7, 32])  # both branches of the CPU's gradient
def test_dense_against_its_formula(features, cpu, monkeypatch):
    monkeypatch.setattr(dense, "cpu_matmuls", lambda: cpu)
    module, x = dense.Dense(features, bias_init=jax.nn.initializers.normal()), normal(0, 4, 5, 7)
    params = module.init(jax.random.key(1), x)
    ours = value_and_gradient(module, params, x)

    def formula(params, x):
        return jnp.sum(jnp.sin(x @ params["params"]["kernel"] + params["params"]["bias"]))

    assert_close(ours, jax.jit(jax.value_and_grad(formula, (0, 1)))(params, x))


def test_split_dense_is_one_dense_layer_in_parts():
    whole, split = dense.Dense(12), dense.SplitDense(4, 3)
    x = normal(0, 2, 5, 7)
    params = whole.init(jax.random.key(1), x)
    assert_close(params, split.init(jax.random.key(1), x))
    parts = split.apply(params, x)
    assert [part.shape for part in parts] == [(2, 5, 4)] * 3
    assert_close(jnp.concatenate(parts, axis=-1), whole.apply(params, x))
    assert_close(value_and_gradient(split, params, x), value_and_gradient(whole, params, x))


@pytest.mark.parametrize("backend, flat", [("cpu", True), ("gpu", False), ("tpu", False)])
def test_dense_uses_one_matrix_on_the_cpu_only(monkeypatch, backend, flat):
    monkeypatch.setattr(jax, "default_backend", lambda: backend)
    x = jnp.ones((4, 5, 7))
    params = dense.Dense(3).init(jax.random.key(0), x)
    program = str(jax.make_jaxpr(dense.Dense(3).apply)(params, x))
    assert ("f32[20,7]" in program) == flat


def test_broadcast_is_that_of_numpy():
    x = normal(0, 3, 1, 2)

    def loss(broadcast):
        return lambda x: jnp.sum(jnp.sin(broadcast(x, (3, 5, 2)) * normal(1, 3, 5, 2)))

    assert_close(
        jax.value_and_grad(loss(dense.broadcast))(x), jax.value_and_grad(loss(jnp.broadcast_to))(x)
    )


def test_the_gradient_of_broadcast_is_summed_in_float32():
    program = str(
        jax.make_jaxpr(
            jax.grad(lambda x: jnp.sum(dense.broadcast(x, (4096, 2)).astype(jnp.float32)))
        )(jnp.ones((1, 2), jnp.bfloat16))
    )
    assert "f32[2] = reduce_sum" in program
    # Each term is 1. A sum in bfloat16 would stop at 256, because 256 + 1 is rounded to 256.
    gradient = jax.grad(lambda x: jnp.sum(dense.broadcast(x, (4096, 2)).astype(jnp.float32)))(
        jnp.ones((1, 2), jnp.bfloat16)
    )
    np.testing.assert_array_equal(gradient, [[4096, 4096]])
