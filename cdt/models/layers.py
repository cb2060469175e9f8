"""Layers of the networks. Images are [B, H, W, C], tokens [B, N, D]."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike

from cdt.models.dense import Dense, SplitDense, broadcast


def unconstrained(x: jax.Array) -> jax.Array:
    """Return x: no sharding constraint; `cdt.devices.sharding.split_batch` returns one."""
    return x


def has_fused_attention(dtype: DTypeLike, head_dim: int) -> bool:
    """Return True if cuDNN's fused attention, which does not store the [N, L] scores, is available.

    It needs an NVIDIA GPU of the Ampere generation or later, bfloat16 or float16, and a head width
    that is a multiple of 8 and at most 128.

    Args:
        dtype: dtype of queries, keys and values.
        head_dim: width of a head.
    """
    half = dtype in (jnp.bfloat16, jnp.float16)
    if not half or head_dim % 8 or head_dim > 128 or jax.default_backend() != "gpu":
        return False
    device = jax.local_devices()[0]
    return "NVIDIA" in device.device_kind and float(device.compute_capability) >= 8.0


def attention(
    query: jax.Array, key: jax.Array, value: jax.Array, lengths: jax.Array | None = None
) -> jax.Array:
    """Return softmax(query key^T / sqrt(d)) value of each head, with the softmax in float32.

    Args:
        query: [B, N, heads, d].
        key: [B, L, heads, d].
        value: [B, L, heads, d].
        lengths: int32 [B] in 1..L, number of keys of each example, the rest is padding; None for L.

    Returns:
        [B, N, heads, d], of query's dtype.
    """
    fused = has_fused_attention(query.dtype, query.shape[-1])
    return jax.nn.dot_product_attention(
        query,
        key,
        value,
        key_value_seq_lengths=lengths,
        implementation="cudnn" if fused else "xla",
    )


def _token_statistics(x: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Return (mean, 1 / standard deviation) over the last axis, which stays with size 1."""
    mean = x.mean(axis=-1, keepdims=True)
    variance = jnp.square(x - mean).mean(axis=-1, keepdims=True)
    return mean, jax.lax.rsqrt(variance + 1e-6)


def _token_sums(values: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
    # Without the barrier XLA:GPU fuses the operations that follow into the kernel of these sums,
    # which works on one token at a time. That is slow, and sums over all tokens read x again.
    return jax.lax.optimization_barrier(values)


@jax.custom_vjp
def adaptive_layer_norm(x: jax.Array, shift: jax.Array, scale: jax.Array) -> jax.Array:
    """Return layer normalisation of x [B, N, D] over D, times 1 + scale [B, D], plus shift [B, D].

    Computed in float32 and rounded once to x's dtype. The backward pass is written by hand: it
    stores x and two numbers per token.
    """
    return _adaptive_layer_norm_forward(x, shift, scale)[0]


def _adaptive_layer_norm_forward(
    x: jax.Array, shift: jax.Array, scale: jax.Array
) -> tuple[jax.Array, tuple[jax.Array, ...]]:
    x32, shift32, scale32 = (v.astype(jnp.float32) for v in (x, shift, scale))
    mean, inverse = _token_sums(_token_statistics(x32))
    out = (x32 - mean) * inverse * (1 + scale32[:, None]) + shift32[:, None]
    return out.astype(x.dtype), (x, shift, scale, mean, inverse)


def _adaptive_layer_norm_backward(
    residuals: tuple[jax.Array, ...], gradient: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array]:
    x, shift, scale, mean, inverse = residuals
    gradient = gradient.astype(jnp.float32)
    normalised = (x.astype(jnp.float32) - mean) * inverse
    inner = gradient * (1 + scale.astype(jnp.float32)[:, None])
    constant, slope = _token_sums(
        (inner.mean(axis=-1, keepdims=True), (inner * normalised).mean(axis=-1, keepdims=True))
    )
    dx = (inner - constant - normalised * slope) * inverse
    return (
        dx.astype(x.dtype),
        gradient.sum(axis=1).astype(shift.dtype),
        (gradient * normalised).sum(axis=1).astype(scale.dtype),
    )


adaptive_layer_norm.defvjp(_adaptive_layer_norm_forward, _adaptive_layer_norm_backward)


def gated(x: jax.Array, gate: jax.Array) -> jax.Array:
    """Return x [B, N, D] times gate [B, D]."""
    return broadcast(gate[:, None], x.shape) * x


def _check_heads(width: int, num_heads: int) -> None:
    if width % num_heads:
        raise ValueError(f"The width {width} must be divisible by the {num_heads} attention heads.")


class SelfAttention(nn.Module):
    """Multi-head self-attention over tokens [B, N, D] -> [B, N, D], with one kernel for q, k and v.

    Attributes:
        num_heads: number of heads; must divide D, otherwise the call raises ValueError.
        dtype: compute dtype.
        separate_qkv: True to compute queries, keys and values in three products, see `SplitDense`.
    """

    num_heads: int
    dtype: DTypeLike = jnp.float32
    separate_qkv: bool = False

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        batch, tokens, width = x.shape
        _check_heads(width, self.num_heads)
        head = (batch, tokens, self.num_heads, width // self.num_heads)
        if self.separate_qkv:
            qkv = SplitDense(width, 3, dtype=self.dtype, name="qkv")(x)
        else:
            qkv = jnp.split(Dense(3 * width, dtype=self.dtype, name="qkv")(x), 3, axis=-1)
        out = attention(*(part.reshape(head) for part in qkv))
        return Dense(width, dtype=self.dtype, name="out")(out.reshape(batch, tokens, width))


class CrossAttention(nn.Module):
    """Multi-head attention from tokens [B, N, D] to states [B, L, W]: [B, N, D].

    Called with tokens, states and lengths int32 [B]: the number of states of each example, the rest
    is padding. At initialisation the output is zero.

    Attributes:
        num_heads: number of heads; must divide D, otherwise the call raises ValueError.
        dtype: compute dtype.
    """

    num_heads: int
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, states: jax.Array, length: jax.Array) -> jax.Array:
        batch, tokens, width = x.shape
        _check_heads(width, self.num_heads)
        head = (self.num_heads, width // self.num_heads)
        query = Dense(width, dtype=self.dtype, name="q")(x).reshape(batch, tokens, *head)
        kv = Dense(2 * width, dtype=self.dtype, name="kv")(states)
        kv = kv.reshape(batch, states.shape[1], 2, *head)
        out = attention(query, kv[:, :, 0], kv[:, :, 1], length)
        zeros = nn.initializers.zeros
        return Dense(width, dtype=self.dtype, kernel_init=zeros, name="out")(
            out.reshape(batch, tokens, width)
        )


# Checkpointed, so that the backward pass reads the input only, and not the intermediate results of
# the forward pass.
@jax.checkpoint
def gelu(x: jax.Array) -> jax.Array:
    """Return the tanh form of the Gaussian error linear unit, [...] -> [...]."""
    return nn.gelu(x, approximate=True)


class Mlp(nn.Module):
    """Two dense layers with tanh-GELU between them: [B, N, D] -> [B, N, out_size].

    Attributes:
        hidden_size: width of the hidden layer.
        dtype: compute dtype.
        out_size: width of the output; None for D.
    """

    hidden_size: int
    dtype: DTypeLike = jnp.float32
    out_size: int | None = None

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        hidden = gelu(Dense(self.hidden_size, dtype=self.dtype, name="in")(x))
        return Dense(self.out_size or x.shape[-1], dtype=self.dtype, name="out")(hidden)


def patchify(x: jax.Array, patch_size: int) -> jax.Array:
    """Convert images [B, H, W, C] to tokens [B, (H/p) (W/p), p p C], p = patch_size, row by row.

    Raises:
        ValueError: H or W is not divisible by `patch_size`.
    """
    batch, height, width, channels = x.shape
    if height % patch_size or width % patch_size:
        raise ValueError(
            f"The image size {height}x{width} is not divisible by the patch size {patch_size}; "
            "change one of them."
        )
    rows, columns = height // patch_size, width // patch_size
    x = x.reshape(batch, rows, patch_size, columns, patch_size, channels)
    return x.transpose(0, 1, 3, 2, 4, 5).reshape(batch, rows * columns, -1)


def unpatchify(tokens: jax.Array, patch_size: int, rows: int, columns: int) -> jax.Array:
    """Convert tokens [B, rows columns, p p C] to images [B, rows p, columns p, C].

    It is the inverse of `patchify`.
    """
    batch = tokens.shape[0]
    x = tokens.reshape(batch, rows, columns, patch_size, patch_size, -1)
    x = x.transpose(0, 1, 3, 2, 4, 5)
    return x.reshape(batch, rows * patch_size, columns * patch_size, -1)


def position_embedding(rows: int, columns: int, dim: int) -> np.ndarray:
    """Return the sine-cosine position embedding of a grid of tokens: f32 [rows columns, dim].

    The tokens are ordered row by row. The first half of the features encodes the column k, the
    second half the row k, as [sin(k w_i), cos(k w_i)] with w_i = 10000^(-i / (dim / 4)).

    Raises:
        ValueError: `dim` is not divisible by 4.

    Source: Chen et al. 2021, arXiv 2104.02057, as in Peebles & Xie 2023.
    """
    if dim % 4:
        raise ValueError(f"The width {dim} must be divisible by 4, for the position embedding.")
    frequencies = 10_000.0 ** (-np.arange(dim // 4, dtype=np.float64) / (dim // 4))
    row, column = np.meshgrid(np.arange(rows), np.arange(columns), indexing="ij")
    angles = [axis.reshape(-1, 1) * frequencies for axis in (column, row)]
    table = [f(angle) for angle in angles for f in (np.sin, np.cos)]
    return np.concatenate(table, axis=1).astype(np.float32)
