"""Layers and conditions of the U-Nets. Images are NHWC."""

import math
from collections.abc import Callable
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from cdt.models.conditioning import MAX_PERIOD, augment_embed, timestep_embedding
from cdt.models.dense import Dense

EMBEDDING_RATIO = 4  # width of the condition over that of the stem


class Init(NamedTuple):
    """How a dense layer or a convolution starts."""

    kernel: nn.initializers.Initializer
    bias: Callable[[int], nn.initializers.Initializer]  # fan-in -> initializer


def _zero_bias(fan_in: int) -> nn.initializers.Initializer:
    return nn.initializers.zeros


def _uniform_bias(fan_in: int) -> nn.initializers.Initializer:
    limit = 1 / math.sqrt(fan_in)
    return lambda key, shape, dtype: jax.random.uniform(key, shape, dtype, -limit, limit)


def xavier_uniform(gain: float) -> Init:
    """Xavier-uniform kernels times `gain`, no bias."""
    kernel = nn.initializers.variance_scaling(gain**2, "fan_avg", "uniform")
    return Init(kernel, _zero_bias)


ZERO = Init(nn.initializers.zeros, _zero_bias)
# U(-1, 1) / sqrt(fan-in) for kernels and biases: what PyTorch starts its layers with.
PYTORCH = Init(nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform"), _uniform_bias)


def dense(x: jax.Array, features: int, init: Init, dtype: DTypeLike, name: str) -> jax.Array:
    """A dense layer over the last axis, in the module that is being called."""
    bias_init = init.bias(x.shape[-1])
    return Dense(features, dtype=dtype, kernel_init=init.kernel, bias_init=bias_init, name=name)(x)


def conv(x: jax.Array, features: int, init: Init, dtype: DTypeLike, name: str) -> jax.Array:
    """A 3x3 convolution with zeros around the image, in the module that is being called."""
    bias_init = init.bias(9 * x.shape[-1])
    return nn.Conv(
        features, (3, 3), dtype=dtype, kernel_init=init.kernel, bias_init=bias_init, name=name
    )(x)


def group_norm(x: jax.Array, epsilon: float, name: str) -> jax.Array:
    """Group normalisation with a scale and a shift a channel; statistics in float32. There are 32
    groups, or as many as leave four channels to each."""
    channels = x.shape[-1]
    groups = min(32, channels // 4)
    if not groups or channels % groups:
        raise ValueError(
            f"{channels} channels cannot be normalised in {groups} groups; make the U-Net's "
            "channels a multiple of 32."
        )
    # Not the faster E[x^2] - E[x]^2, which cancels where the mean is large.
    return nn.GroupNorm(
        groups, epsilon=epsilon, dtype=x.dtype, use_fast_variance=False, name=name
    )(x)  # fmt: skip


def downsample(x: jax.Array) -> jax.Array:
    """Means of 2x2 pixels: [B, H, W, C] -> [B, H/2, W/2, C]."""
    batch, height, width, channels = x.shape
    return x.reshape(batch, height // 2, 2, width // 2, 2, channels).mean(axis=(2, 4))


def upsample(x: jax.Array) -> jax.Array:
    """Each pixel as 2x2 pixels: [B, H, W, C] -> [B, 2 H, 2 W, C]."""
    return x.repeat(2, axis=1).repeat(2, axis=2)


def _one_hot(label: jax.Array, num_classes: int) -> jax.Array:
    """float32 [B, num_classes]; zeros for the null label, num_classes."""
    return jax.nn.one_hot(label, num_classes, dtype=jnp.float32)


class AdmCondition(nn.Module):
    """silu(MLP(time + augment) + class) -> [B, 4 channels], of time [B], label int32 [B] or None
    and augment float [B, 9] or None.

    The features of the time are `timestep_embedding`'s, with as many as the U-Net has channels.
    Classes start as N(0, 1), the initialisation of PyTorch's embedding.
    """

    channels: int
    num_classes: int | None
    dtype: DTypeLike

    @nn.compact
    def __call__(
        self, time: jax.Array, label: jax.Array | None, augment: jax.Array | None
    ) -> jax.Array:
        width = EMBEDDING_RATIO * self.channels
        x = timestep_embedding(time, self.channels)
        if augment is not None:
            x = x + augment_embed(augment, self.channels, PYTORCH.kernel, self.dtype)
        x = nn.silu(dense(x, width, PYTORCH, self.dtype, "time_in"))
        x = dense(x, width, PYTORCH, self.dtype, "time_out")
        if label is not None and self.num_classes is not None:
            # HIGHEST copies the class's row exactly.
            x = x + nn.Dense(
                width, use_bias=False, kernel_init=nn.initializers.normal(1.0),
                precision=jax.lax.Precision.HIGHEST, name="label",
            )(_one_hot(label, self.num_classes)).astype(self.dtype)  # fmt: skip
        return nn.silu(x)


class DdpmppCondition(nn.Module):
    """silu(MLP(time + class + augment)) -> [B, 4 channels], of the same as `AdmCondition`.

    The features of the time are [sin, cos] with frequencies that reach 1 / `MAX_PERIOD`, as those
    of Ho et al. 2020 do. The class is a row of a Xavier-uniform matrix, times sqrt(num_classes) so
    that its size does not fall with the number of classes, plus a bias that the null label has too.
    """

    channels: int
    num_classes: int | None
    dtype: DTypeLike

    @nn.compact
    def __call__(
        self, time: jax.Array, label: jax.Array | None, augment: jax.Array | None
    ) -> jax.Array:
        width = EMBEDDING_RATIO * self.channels
        init = xavier_uniform(1.0)
        half = self.channels // 2
        x = timestep_embedding(time, self.channels, MAX_PERIOD ** (half / (half - 1)))
        x = jnp.roll(x, half, axis=-1)  # [cos, sin] -> [sin, cos]
        if label is not None and self.num_classes is not None:
            x = x + nn.Dense(
                self.channels, kernel_init=init.kernel,
                precision=jax.lax.Precision.HIGHEST, name="label",
            )(math.sqrt(self.num_classes) * _one_hot(label, self.num_classes))  # fmt: skip
        if augment is not None:
            x = x + augment_embed(augment, self.channels, init.kernel, self.dtype)
        x = nn.silu(dense(x, width, init, self.dtype, "time_in"))
        return nn.silu(dense(x, width, init, self.dtype, "time_out"))
