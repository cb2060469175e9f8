"""Dense layers that are fast on each backend and sum gradients in float32."""

from collections.abc import Sequence
from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

Precision = jax.lax.Precision | None
Operands = tuple[jax.Array, Sequence[jax.Array]]  # x and the kernels


def cpu_matmuls() -> bool:
    """Return True on the CPU, where dense layers reshape tokens [B, N, D] to a matrix [B N, D]."""
    # XLA:CPU has a fast kernel for a product of two matrices. With two leading dimensions the
    # product, and above all its gradient, takes two to three times as long. Other backends do not
    # need this, and a reshape would hide a sharded token axis from the partitioner.
    return jax.default_backend() == "cpu"


@partial(jax.custom_vjp, nondiff_argnums=(1,))
def broadcast(x: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """Return `jnp.broadcast_to(x, shape)`, with a gradient that is summed in float32.

    Args:
        x: an array with as many axes as `shape`.
        shape: shape of the result.
    """
    # Without this, a GPU sums a bfloat16 gradient over all tokens in bfloat16, which has 8 bits.
    return jnp.broadcast_to(x, shape)


def _broadcast_forward(x: jax.Array, shape: tuple[int, ...]) -> tuple[jax.Array, jax.Array]:
    return jnp.broadcast_to(x, shape), x


def _broadcast_backward(
    shape: tuple[int, ...], x: jax.Array, gradient: jax.Array
) -> tuple[jax.Array]:
    axes = [axis for axis, size in enumerate(shape) if x.shape[axis] != size]
    total = jnp.sum(gradient, axes, dtype=jnp.float32, keepdims=True)
    return (total.astype(x.dtype),)


broadcast.defvjp(_broadcast_forward, _broadcast_backward)


@partial(jax.custom_vjp, nondiff_argnums=(2,))
def matmuls(
    x: jax.Array, kernels: Sequence[jax.Array], precision: Precision = None
) -> list[jax.Array]:
    """Return x [..., D_in] times each of the kernels [D_in, D_out]: arrays [..., D_out]."""
    return _matmuls_forward(x, kernels, precision)[0]


def _matmuls_forward(
    x: jax.Array, kernels: Sequence[jax.Array], precision: Precision
) -> tuple[list[jax.Array], Operands]:
    # Not a call of `matmuls`: a rematerialisation policy does not look inside a custom_vjp.
    return [jnp.matmul(x, kernel, precision=precision) for kernel in kernels], (x, kernels)


def _matmuls_backward(
    precision: Precision, residuals: Operands, gradients: Sequence[jax.Array]
) -> tuple[jax.Array, list[jax.Array]]:
    x, kernels = residuals
    # In this order XLA:GPU adds the previous sum inside each product and stores no separate terms.
    dx = jnp.matmul(gradients[0], kernels[0].T, precision=precision)
    for gradient, kernel in zip(gradients[1:], kernels[1:], strict=True):
        dx = jnp.matmul(gradient, kernel.T, precision=precision) + dx
    return dx, [_kernel_gradient(x, gradient, precision) for gradient in gradients]


def _kernel_gradient(x: jax.Array, gradient: jax.Array, precision: Precision) -> jax.Array:
    # On the CPU Eigen computes x^T g, and a tall result [D_in > D_out] takes about twice as long as
    # a wide one. So compute the transpose; the barrier keeps XLA from cancelling the transposes.
    if cpu_matmuls() and x.shape[-1] > gradient.shape[-1]:
        return jax.lax.optimization_barrier(gradient.T @ x).T
    tokens = tuple(range(x.ndim - 1))
    return jnp.tensordot(x, gradient, (tokens, tokens), precision=precision)


matmuls.defvjp(_matmuls_forward, _matmuls_backward)


class Dense(nn.Module):
    """Dense layer over the last axis: [..., D_in] -> [..., features].

    The parameters are `kernel` f32 [D_in, features] and `bias` f32 [features].

    Attributes:
        features: width of the output.
        dtype: dtype of the computation and the output.
        precision: precision of the product, on backends with several.
        kernel_init: initializer of the kernel, Xavier-uniform by default.
        bias_init: initializer of the bias, zeros by default.
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
    """`Dense(parts * features)` with the output as a list of `parts` arrays [..., features].

    Each array is a separate product, which saves the copy that splitting one output needs. Use it
    where every device has the whole kernel: splitting a sharded kernel moves it between devices.
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
    """Return x [..., D_in] kernel [D_in, D_out] + bias [D_out], as a list of `parts` arrays."""
    leading = x.shape[:-1]
    if cpu_matmuls():
        x = x.reshape(-1, x.shape[-1])
    outputs = matmuls(x, jnp.split(kernel, parts, axis=1), precision)
    shifts = [b.reshape((1,) * (x.ndim - 1) + (-1,)) for b in jnp.split(bias, parts)]
    outputs = [y + broadcast(b, y.shape) for y, b in zip(outputs, shifts, strict=True)]
    return [y.reshape(*leading, y.shape[-1]) for y in outputs]
