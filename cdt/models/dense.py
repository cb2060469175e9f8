"""Dense layers, in the forms that each backend runs fast and sums precisely."""

from collections.abc import Sequence
from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

Precision = jax.lax.Precision | None
Operands = tuple[jax.Array, Sequence[jax.Array]]  # x and the kernels


def cpu_matmuls() -> bool:
    """Whether dense layers use the form for XLA:CPU, which sends a product of two matrices to a
    tuned kernel, but runs the same product with two leading dimensions, and above all its gradient,
    two to three times slower: so tokens [B, N, D] become one matrix [B N, D] there.

    Other backends need no help, and there a sharded token axis should stay visible to the
    partitioner.
    """
    return jax.default_backend() == "cpu"


@partial(jax.custom_vjp, nondiff_argnums=(1,))
def spread(x: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """`jnp.broadcast_to(x, shape)`, where x has as many axes as `shape`, and its gradient is summed
    in float32: GPUs would sum a bfloat16 one over all tokens in bfloat16, which has 8 bits."""
    return jnp.broadcast_to(x, shape)


def _spread_forward(x: jax.Array, shape: tuple[int, ...]) -> tuple[jax.Array, jax.Array]:
    return jnp.broadcast_to(x, shape), x


def _spread_backward(shape: tuple[int, ...], x: jax.Array, gradient: jax.Array) -> tuple[jax.Array]:
    axes = [axis for axis, size in enumerate(shape) if x.shape[axis] != size]
    total = jnp.sum(gradient, axes, dtype=jnp.float32, keepdims=True)
    return (total.astype(x.dtype),)


spread.defvjp(_spread_forward, _spread_backward)


@partial(jax.custom_vjp, nondiff_argnums=(2,))
def products(
    x: jax.Array, kernels: Sequence[jax.Array], precision: Precision = None
) -> list[jax.Array]:
    """x [..., D_in] times each of the kernels [D_in, D_out]: arrays [..., D_out]."""
    return _products_forward(x, kernels, precision)[0]


def _products_forward(
    x: jax.Array, kernels: Sequence[jax.Array], precision: Precision
) -> tuple[list[jax.Array], Operands]:
    # Plain products, and not a call of `products`, which no policy of rematerialisation looks into.
    return [jnp.matmul(x, kernel, precision=precision) for kernel in kernels], (x, kernels)


def _products_backward(
    precision: Precision, residuals: Operands, gradients: Sequence[jax.Array]
) -> tuple[jax.Array, list[jax.Array]]:
    x, kernels = residuals
    # In this order XLA:GPU lets each product add the sum so far, and never writes a term alone.
    dx = jnp.matmul(gradients[0], kernels[0].T, precision=precision)
    for gradient, kernel in zip(gradients[1:], kernels[1:], strict=True):
        dx = jnp.matmul(gradient, kernel.T, precision=precision) + dx
    return dx, [_kernel_gradient(x, gradient, precision) for gradient in gradients]


def _kernel_gradient(x: jax.Array, gradient: jax.Array, precision: Precision) -> jax.Array:
    # XLA:CPU gives x^T g to Eigen, which runs a tall result [D_in > D_out] at about half of the
    # speed of a wide one. So compute the transpose, behind a barrier that keeps the two transposes
    # from cancelling.
    if cpu_matmuls() and x.shape[-1] > gradient.shape[-1]:
        return jax.lax.optimization_barrier(gradient.T @ x).T
    tokens = tuple(range(x.ndim - 1))
    return jnp.tensordot(x, gradient, (tokens, tokens), precision=precision)


products.defvjp(_products_forward, _products_backward)


class Dense(nn.Module):
    """A dense layer over the last axis: [..., D_in] -> [..., features].

    Parameters are float32 `kernel` [D_in, features] and `bias` [features].

    Attributes:
        features: width of the output.
        dtype: compute dtype, that of the output.
        precision: of the product, where the backend has several.
        kernel_init, bias_init: Xavier-uniform and zero.
    """

    features: int
    dtype: DTypeLike = jnp.float32
    precision: jax.lax.Precision | None = None
    kernel_init: nn.initializers.Initializer = nn.initializers.xavier_uniform()
    bias_init: nn.initializers.Initializer = nn.initializers.zeros

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        shape = (x.shape[-1], self.features)
        kernel = self.param("kernel", self.kernel_init, shape, jnp.float32)
        bias = self.param("bias", self.bias_init, shape[1:], jnp.float32)
        x, kernel, bias = (v.astype(self.dtype) for v in (x, kernel, bias))
        (y,) = _affine(x, kernel, bias, 1, self.precision)
        return y


class SplitDense(nn.Module):
    """`Dense(parts features)` with its output split into a list of `parts` arrays [..., features].

    Each is a product of its own, where splitting the result of one would copy it. That needs the
    kernel whole on each device: a sharded one would be sent about to be split.
    """

    features: int
    parts: int
    dtype: DTypeLike = jnp.float32
    kernel_init: nn.initializers.Initializer = nn.initializers.xavier_uniform()

    @nn.compact
    def __call__(self, x: jax.Array) -> list[jax.Array]:
        shape = (x.shape[-1], self.parts * self.features)
        kernel = self.param("kernel", self.kernel_init, shape, jnp.float32)
        bias = self.param("bias", nn.initializers.zeros, shape[1:], jnp.float32)
        x, kernel, bias = (v.astype(self.dtype) for v in (x, kernel, bias))
        return _affine(x, kernel, bias, self.parts, None)


def _affine(
    x: jax.Array, kernel: jax.Array, bias: jax.Array, parts: int, precision: Precision
) -> list[jax.Array]:
    """x [..., D_in] kernel [D_in, D_out] + bias [D_out], in `parts` products: a list of arrays."""
    leading = x.shape[:-1]
    if cpu_matmuls():
        x = x.reshape(-1, x.shape[-1])
    outputs = products(x, jnp.split(kernel, parts, axis=1), precision)
    shifts = [b.reshape((1,) * (x.ndim - 1) + (-1,)) for b in jnp.split(bias, parts)]
    outputs = [y + spread(b, y.shape) for y, b in zip(outputs, shifts, strict=True)]
    return [y.reshape(*leading, y.shape[-1]) for y in outputs]
