"""Layers against formulas in float64."""

from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cdt.models import layers


def normal(seed, *shape):
    return jax.random.normal(jax.random.key(seed), shape)


def test_patchify_row_by_row():
    image = jnp.arange(4 * 6).reshape(1, 4, 6, 1)
    tokens = layers.patchify(image, 2)
    assert tokens.shape == (1, 6, 4)
    np.testing.assert_array_equal(tokens[0, 0], [0, 1, 6, 7])
    np.testing.assert_array_equal(tokens[0, 1], [2, 3, 8, 9])
    np.testing.assert_array_equal(tokens[0, 3], [12, 13, 18, 19])


@pytest.mark.parametrize("patch_size", [1, 2, 4])
def test_unpatchify_inverts_patchify(patch_size):
    image = normal(0, 2, 8, 12, 3)
    tokens = layers.patchify(image, patch_size)
    restored = layers.unpatchify(tokens, patch_size, 8 // patch_size, 12 // patch_size)
    np.testing.assert_array_equal(restored, image)


def test_patchify_rejects_an_indivisible_image():
    with pytest.raises(ValueError, match="image size 8x9 is not divisible by the patch size 2"):
        layers.patchify(jnp.zeros((1, 8, 9, 1)), 2)


def test_position_embedding_formula():
    rows, columns, dim = 3, 5, 24
    table = layers.position_embedding(rows, columns, dim)
    assert table.dtype == np.float32
    for r in range(rows):
        for c in range(columns):
            for i in range(dim // 4):
                w = 10000.0 ** (-i / 6)
                expected = [np.sin(c * w), np.cos(c * w), np.sin(r * w), np.cos(r * w)]
                np.testing.assert_allclose(table[r * columns + c, i :: dim // 4], expected, 1e-6)


def test_position_embedding_rejects_an_indivisible_width():
    with pytest.raises(ValueError, match="width 10 must be divisible by 4"):
        layers.position_embedding(2, 2, 10)


def test_adaptive_layer_norm_formula():
    x, shift, scale = 3 * normal(0, 2, 5, 8) + 1, normal(1, 2, 8), normal(2, 2, 8)
    x64, shift64, scale64 = (np.asarray(a, np.float64) for a in (x, shift, scale))
    mean = x64.mean(-1, keepdims=True)
    normalised = (x64 - mean) / np.sqrt(x64.var(-1, keepdims=True) + 1e-6)
    expected = normalised * (1 + scale64[:, None]) + shift64[:, None]
    np.testing.assert_allclose(
        layers.adaptive_layer_norm(x, shift, scale), expected, rtol=1e-5, atol=1e-6
    )


def test_adaptive_layer_norm_gradient_in_float64():
    arguments = 3 * normal(0, 2, 5, 8) + 1, normal(1, 2, 8), normal(2, 2, 8)

    def formula(x, shift, scale):
        centred = x - x.mean(-1, keepdims=True)
        deviation = jnp.sqrt((centred**2).mean(-1, keepdims=True) + 1e-6)
        return centred / deviation * (1 + scale[:, None]) + shift[:, None]

    def gradient(norm, arguments):
        return jax.grad(lambda *a: jnp.sum(jnp.sin(norm(*a))), (0, 1, 2))(*arguments)

    ours = gradient(layers.adaptive_layer_norm, arguments)
    with jax.enable_x64(True):
        expected = gradient(formula, [jnp.asarray(np.float64(a)) for a in arguments])
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5), ours, expected
    )


def test_adaptive_layer_norm_rounds_once():
    x, shift, scale = (a.astype(jnp.bfloat16) for a in (normal(0, 2, 5, 8), *normal(1, 2, 2, 8)))
    exact = layers.adaptive_layer_norm(*(a.astype(jnp.float32) for a in (x, shift, scale)))
    rounded = layers.adaptive_layer_norm(x, shift, scale)
    np.testing.assert_array_equal(rounded, exact.astype(jnp.bfloat16))


def test_attention_formula():
    module, x = layers.SelfAttention(num_heads=2), normal(0, 2, 6, 8)
    params = jax.jit(module.init)(jax.random.key(1), x)["params"]
    kernels = {k: np.asarray(params[k]["kernel"], np.float64) for k in params}
    q, k, v = np.split(np.asarray(x, np.float64) @ kernels["qkv"], 3, axis=-1)
    heads = []
    for h in (slice(0, 4), slice(4, 8)):
        scores = np.exp(q[..., h] @ k[..., h].swapaxes(1, 2) / np.sqrt(4))
        heads.append(scores / scores.sum(-1, keepdims=True) @ v[..., h])
    expected = np.concatenate(heads, -1) @ kernels["out"]
    np.testing.assert_allclose(
        jax.jit(module.apply)({"params": params}, x), expected, rtol=1e-4, atol=1e-5
    )


def test_attention_rejects_an_indivisible_width():
    with pytest.raises(ValueError, match="width 8 must be divisible by the 3 attention heads"):
        layers.SelfAttention(num_heads=3).init(jax.random.key(0), jnp.zeros((1, 2, 8)))


@pytest.mark.parametrize(
    "dtype, width, backend, kind, capability, fused",
    [
        (jnp.bfloat16, 72, "gpu", "NVIDIA H100 80GB HBM3", "9.0", True),
        (jnp.float32, 72, "gpu", "NVIDIA H100 80GB HBM3", "9.0", False),
        (jnp.bfloat16, 36, "gpu", "NVIDIA H100 80GB HBM3", "9.0", False),
        (jnp.bfloat16, 256, "gpu", "NVIDIA H100 80GB HBM3", "9.0", False),
        (jnp.bfloat16, 64, "gpu", "Tesla V100-SXM2-16GB", "7.0", False),
        (jnp.bfloat16, 64, "gpu", "NVIDIA A100-SXM4-40GB", "8.0", True),
        (jnp.bfloat16, 64, "tpu", "TPU v5 lite", None, False),
        (jnp.bfloat16, 64, "cpu", "cpu", None, False),
    ],
)
def test_where_attention_is_fused(dtype, width, backend, kind, capability, fused, monkeypatch):
    device = SimpleNamespace(device_kind=kind, compute_capability=capability)
    monkeypatch.setattr(jax, "default_backend", lambda: backend)
    monkeypatch.setattr(jax, "local_devices", lambda: [device])
    assert layers.has_fused_attention(dtype, width) == fused
