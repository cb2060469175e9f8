"""The DiT with text: cross-attention against its formula, and the effect of the text."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cdt.models.dit import DiT
from cdt.models.layers import CrossAttention

SMALL = DiT(
    patch_size=2,
    hidden_size=32,
    depth=2,
    num_heads=4,
    out_channels=2,
    num_classes=10,
    text_width=12,
)
X = jax.random.normal(jax.random.key(1), (4, 8, 8, 1))
TIME = jnp.array([0.0, 0.3, 17.0, 999.0])
LABEL = jnp.array([0, 5, 9, 10], jnp.int32)
TEXT = jax.random.normal(jax.random.key(3), (4, 6, 12))
LENGTH = jnp.array([1, 6, 3, 4], jnp.int32)


@pytest.fixture(scope="module")
def params():
    """Return parameters without the zeros of the initialisation."""
    params = jax.jit(SMALL.init)(jax.random.key(0), X, TIME, LABEL, TEXT, LENGTH)
    leaves, tree = jax.tree.flatten(params)
    keys = jax.random.split(jax.random.key(2), len(leaves))
    leaves = [p + 0.05 * jax.random.normal(k, p.shape) for p, k in zip(leaves, keys, strict=True)]
    return jax.tree.unflatten(tree, leaves)


@pytest.fixture(scope="module")
def output(params):
    return jax.jit(SMALL.apply)(params, X, TIME, LABEL, TEXT, LENGTH)


def test_cross_attention_against_its_formula():
    """softmax(q k^T / sqrt(d)) v for each head and example, in float64."""
    heads, width = 2, 8
    x = jax.random.normal(jax.random.key(4), (3, 5, width))
    states, length = TEXT[:3], np.array([1, 6, 3])
    module = CrossAttention(heads)
    params = jax.jit(module.init)(jax.random.key(5), x, states, jnp.asarray(length))["params"]
    np.testing.assert_array_equal(jax.jit(module.apply)({"params": params}, x, states, length), 0)
    params["out"]["kernel"] = jax.random.normal(jax.random.key(6), (width, width))
    found = jax.jit(module.apply)({"params": params}, x, states, jnp.asarray(length))

    p = jax.tree.map(lambda a: np.asarray(a, np.float64), params)
    expected = np.zeros((3, 5, width))
    for b in range(3):
        used = np.asarray(states[b, : length[b]], np.float64)
        q = np.asarray(x[b], np.float64) @ p["q"]["kernel"]
        k, v = np.split(used @ p["kv"]["kernel"], 2, axis=-1)
        for h in range(heads):
            part = slice(h * width // heads, (h + 1) * width // heads)
            scores = np.exp(q[:, part] @ k[:, part].T / np.sqrt(width / heads))
            expected[b][:, part] = scores / scores.sum(-1, keepdims=True) @ v[:, part]
    np.testing.assert_allclose(found, expected @ p["out"]["kernel"], rtol=2e-5, atol=2e-5)


def test_at_initialisation_text_changes_nothing(params):
    """The output of cross-attention is zero, as in the network without text."""
    zeroed = jax.tree_util.tree_map_with_path(
        lambda path, p: p * 0 if "cross_attention" in str(path) and "'out'" in str(path) else p,
        params,
    )
    plain = SMALL.clone(text_width=None)
    shapes = jax.eval_shape(plain.init, jax.random.key(0), X, TIME, LABEL)
    shared = {name: params["params"][name] for name in shapes["params"]}
    blocks = {name: shared["blocks"][name] for name in shapes["params"]["blocks"]}
    expected = jax.jit(plain.apply)({"params": shared | {"blocks": blocks}}, X, TIME, LABEL)
    found = jax.jit(SMALL.apply)(zeroed, X, TIME, LABEL, TEXT, LENGTH)
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_an_example_reads_its_own_text_without_the_padding(params, output):
    beyond = jnp.arange(6) >= LENGTH[:, None]
    changed = jnp.where(beyond[..., None], 100.0, TEXT)
    found = jax.jit(SMALL.apply)(params, X, TIME, LABEL, changed, LENGTH)
    np.testing.assert_allclose(found, output, atol=1e-5)
    other = jax.jit(SMALL.apply)(params, X, TIME, LABEL, TEXT.at[2, 1].add(1.0), LENGTH)
    differs = jnp.abs(other - output).max((1, 2, 3))
    assert differs[2] > 1e-4 and jnp.delete(differs, 2).max() < 1e-5


@pytest.mark.slow
@pytest.mark.parametrize("unroll, remat", [(True, "none"), (False, "block"), (True, "elementwise")])
def test_unroll_and_remat_change_nothing(params, output, unroll, remat):
    module = SMALL.clone(unroll=unroll, remat=remat)

    def loss(params, module):
        return jnp.mean(jnp.sin(module.apply(params, X, TIME, LABEL, TEXT, LENGTH)))

    expected = jax.grad(loss)(params, SMALL)
    found = jax.grad(loss)(params, module)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6),
                 found, expected)  # fmt: skip


def test_bfloat16_is_close_to_float32(params, output):
    half = jax.jit(SMALL.clone(dtype=jnp.bfloat16).apply)(params, X, TIME, LABEL, TEXT, LENGTH)
    assert half.dtype == jnp.float32
    np.testing.assert_allclose(half, output, atol=0.05)


@pytest.mark.parametrize(
    "text, message",
    [(None, "text_width 12, but there is no text"),
     (TEXT[..., :7], "but the text has width 7")],
)  # fmt: skip
def test_bad_input(params, text, message):
    with pytest.raises(ValueError, match=message):
        jax.jit(SMALL.apply)(params, X, TIME, LABEL, text, LENGTH)
