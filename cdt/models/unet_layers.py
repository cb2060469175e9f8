"""Layers of the U-Nets, and the modules that compute their condition. Images are [B, H, W, C]."""

import math
from collections.abc import Callable
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from cdt.models.conditioning import MAX_PERIOD, augment_embed, timestep_embedding
from cdt.models.dense import Dense

EMBEDDING_RATIO = 4  # width of the condition divided by the channels of the stem


class Init(NamedTuple):
    """Initializers of a dense layer or a convolution.

    Attributes:
        kernel: initializer of the kernel.
        bias: fan-in -> initializer of the bias.
    """

    kernel: nn.initializers.Initializer
    bias: Callable[[int], nn.initializers.Initializer]


def _zero_bias(fan_in: int) -> nn.initializers.Initializer:
    return nn.initializers.zeros


def _uniform_bias(fan_in: int) -> nn.initializers.Initializer:
    limit = 1 / math.sqrt(fan_in)
    return lambda key, shape, dtype: jax.random.uniform(key, shape, dtype, -limit, limit)


def xavier_uniform(gain: float) -> Init:
    """Return the initializers of Xavier-uniform kernels times `gain`, with zero bias."""
    kernel = nn.initializers.variance_scaling(gain**2, "fan_avg", "uniform")
    return Init(kernel, _zero_bias)


ZERO = Init(nn.initializers.zeros, _zero_bias)
# U(-1, 1) / sqrt(fan-in) for kernels and biases, PyTorch's default.
PYTORCH = Init(nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform"), _uniform_bias)


def dense(x: jax.Array, features: int, init: Init, dtype: DTypeLike, name: str) -> jax.Array:
    """Return x [..., D] after a dense layer of the calling module: [..., features]."""
    bias_init = init.bias(x.shape[-1])
    return Dense(features, dtype=dtype, kernel_init=init.kernel, bias_init=bias_init, name=name)(x)


def conv(x: jax.Array, features: int, init: Init, dtype: DTypeLike, name: str) -> jax.Array:
    """Return x [B, H, W, C] after a zero-padded 3x3 convolution of the calling module."""
    bias_init = init.bias(9 * x.shape[-1])
    return nn.Conv(
        features, (3, 3), dtype=dtype, kernel_init=init.kernel, bias_init=bias_init, name=name
    )(x)


def group_norm(x: jax.Array, epsilon: float, name: str) -> jax.Array:
    """Return x [..., C] after group normalisation with a scale and a shift per channel.

    There are 32 groups, or C // 4 if that is less. Statistics are float32.

    Raises:
        ValueError: C is not divisible by the number of groups, or below 4.
    """
    channels = x.shape[-1]
    groups = min(32, channels // 4)
    if not groups or channels % groups:
        raise ValueError(
            f"A layer of the U-Net has {channels} channels, which cannot be divided into {groups} "
            "groups; make the channels a multiple of 32."
        )
    # The fast variance, E[x^2] - E[x]^2, is imprecise if the mean is large.
    return nn.GroupNorm(
        groups, epsilon=epsilon, dtype=x.dtype, use_fast_variance=False, name=name
    )(x)  # fmt: skip


def downsample(x: jax.Array) -> jax.Array:
    """Return the means of 2x2 pixels: [B, H, W, C] -> [B, H/2, W/2, C]."""
    batch, height, width, channels = x.shape
    return x.reshape(batch, height // 2, 2, width // 2, 2, channels).mean(axis=(2, 4))


def upsample(x: jax.Array) -> jax.Array:
    """Repeat each pixel to 2x2 pixels: [B, H, W, C] -> [B, 2 H, 2 W, C]."""
    return x.repeat(2, axis=1).repeat(2, axis=2)


def _one_hot(label: jax.Array, num_classes: int) -> jax.Array:
    """Return f32 [B, num_classes]; zeros for the null label, num_classes."""
    return jax.nn.one_hot(label, num_classes, dtype=jnp.float32)


class AdmCondition(nn.Module):
    """The condition of ADM, silu(MLP(time + augment) + class): [B, 4 channels].

    Called with time [B], label int32 [B] or None, and augment float [B, 9] or None. The time
    features are those of `timestep_embedding`, as many as the stem has channels. Class embeddings
    are initialised from N(0, 1), like PyTorch's.
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
            # With HIGHEST the result is exactly the row of the class.
            x = x + nn.Dense(
                width, use_bias=False, kernel_init=nn.initializers.normal(1.0),
                precision=jax.lax.Precision.HIGHEST, name="label",
            )(_one_hot(label, self.num_classes)).astype(self.dtype)  # fmt: skip
        return nn.silu(x)


class DdpmppCondition(nn.Module):
    """The condition of DDPM++, silu(MLP(time + class + augment)): [B, 4 channels].

    Called like `AdmCondition`. The time features are [sin, cos] with frequencies down to
    1 / `MAX_PERIOD`, as in Ho et al. 2020. The class embedding is a row of a Xavier-uniform matrix
    times sqrt(num_classes), so that its scale does not depend on the number of classes, plus a
    bias; the null class has the bias only.
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
