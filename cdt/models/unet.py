"""The U-Nets ADM and DDPM++, with the settings of EDM.

Both are the same module with different settings, which are in a `Style`.

Source: ADM, Dhariwal & Nichol 2021, arXiv 2105.05233; DDPM++, Song et al. 2021, arXiv 2011.13456;
settings, Karras et al. 2022, arXiv 2206.00364.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from cdt.models.conditioning import check_label
from cdt.models.layers import attention, unconstrained
from cdt.models.remat import rematerialised
from cdt.models.unet_layers import (
    PYTORCH,
    ZERO,
    AdmCondition,
    DdpmppCondition,
    Init,
    conv,
    dense,
    downsample,
    group_norm,
    upsample,
    xavier_uniform,
)


class Style(NamedTuple):
    """Settings in which the two U-Nets differ. The initialisations are those of EDM's code.

    Attributes:
        condition: module that computes the condition from time, label and augmentation.
        adaptive_scale: True if the condition scales and shifts normalised features; False if it
            is added before the normalisation.
        head_channels: width of an attention head; None for one head.
        skip_scale: factor of each sum of a branch and its skip connection.
        resample_projection: True to project the skip connection of blocks that change the
            resolution.
        attend_once_up: True if in the decoder only the last block of a level has attention.
        norm_epsilon: epsilon of the group normalisation.
        init: initializers of most layers.
        attention_init: initializers of queries, keys and values.
        last_init: initializers of the last layer of each branch, and of the output layer.
    """

    condition: type[nn.Module]
    adaptive_scale: bool
    head_channels: int | None
    skip_scale: float
    resample_projection: bool
    attend_once_up: bool
    norm_epsilon: float
    init: Init
    attention_init: Init
    last_init: Init


ADM = Style(
    condition=AdmCondition,
    adaptive_scale=True,
    head_channels=64,
    skip_scale=1.0,
    resample_projection=False,
    attend_once_up=False,
    norm_epsilon=1e-5,
    init=PYTORCH,
    attention_init=PYTORCH,
    last_init=ZERO,
)
DDPMPP = Style(
    condition=DdpmppCondition,
    adaptive_scale=False,
    head_channels=None,
    skip_scale=math.sqrt(0.5),
    resample_projection=True,
    attend_once_up=True,
    norm_epsilon=1e-6,
    init=xavier_uniform(1.0),
    attention_init=xavier_uniform(math.sqrt(0.2)),
    last_init=xavier_uniform(1e-5),
)


class Attention(nn.Module):
    """Normalised self-attention over all pixels, without the sum: [B, H, W, C] -> [B, H, W, C].

    The call raises ValueError if C is not divisible by the number of heads.
    """

    style: Style
    dtype: DTypeLike

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        batch, height, width, channels = x.shape
        # With fewer channels than head_channels there is one head.
        heads = max(1, channels // (self.style.head_channels or channels))
        if channels % heads:
            raise ValueError(
                f"A level of the U-Net has {channels} channels; the number must be divisible by "
                f"the {heads} attention heads."
            )
        x = group_norm(x, self.style.norm_epsilon, "norm")
        x = x.reshape(batch, height * width, channels)
        qkv = dense(x, 3 * channels, self.style.attention_init, self.dtype, "qkv")
        qkv = qkv.reshape(batch, height * width, 3, heads, channels // heads)
        x = attention(qkv[:, :, 0], qkv[:, :, 1], qkv[:, :, 2])
        x = x.reshape(batch, height, width, channels)
        return dense(x, channels, self.style.last_init, self.dtype, "out")


class Block(nn.Module):
    """A residual block, with self-attention after it if `attention` is True.

    Called with x [B, H, W, C] and the condition [B, D]; returns [B, H', W', out_channels].

    Attributes:
        out_channels: channels of the output.
        attention: True to add self-attention.
        dropout: probability that a feature of the branch is dropped.
        style: `ADM` or `DDPMPP`.
        dtype: compute dtype.
        resample: `downsample`, `upsample` or None, for the branch and the skip connection.
    """

    out_channels: int
    attention: bool
    dropout: float
    style: Style
    dtype: DTypeLike
    resample: Callable[[jax.Array], jax.Array] | None = None

    @nn.compact
    def __call__(self, x: jax.Array, condition: jax.Array) -> jax.Array:
        style, features, dtype = self.style, self.out_channels, self.dtype
        resample = self.resample or (lambda x: x)
        project = x.shape[-1] != features or (self.resample and style.resample_projection)

        hidden = resample(nn.silu(group_norm(x, style.norm_epsilon, "norm_in")))
        hidden = conv(hidden, features, style.init, dtype, "conv_in")
        width = 2 * features if style.adaptive_scale else features
        modulation = dense(condition, width, style.init, dtype, "condition")[:, None, None]
        if style.adaptive_scale:
            scale, shift = jnp.split(modulation, 2, axis=-1)
            hidden = group_norm(hidden, style.norm_epsilon, "norm_out") * (1 + scale) + shift
        else:
            hidden = group_norm(hidden + modulation, style.norm_epsilon, "norm_out")
        hidden = nn.silu(hidden)
        # Without the random stream "dropout" nothing is dropped, as in evaluation.
        hidden = nn.Dropout(self.dropout, deterministic=not self.has_rng("dropout"))(hidden)
        hidden = conv(hidden, features, style.last_init, dtype, "conv_out")

        skip = resample(x)
        if project:
            skip = dense(skip, features, style.init, dtype, "skip")
        x = (skip + hidden) * style.skip_scale
        if self.attention:
            x = (x + Attention(style, dtype, name="attention")(x)) * style.skip_scale
        return x


class UNet(nn.Module):
    """U-Net for images or latents; use `adm` or `ddpmpp` to create one.

    The layers are a stem; an encoder with `num_blocks` blocks per level; two middle blocks, the
    first with attention; a decoder with `num_blocks + 1` blocks per level. Each decoder block gets
    the output of one encoder layer (block, stem or downsampling) as a skip connection. From one
    level to the next the side of the image is halved.

    Parameters are float32. At initialisation the output is zero (ADM) or below 1e-3 (DDPM++, whose
    last layers have 1e-5 of the usual initial scale).

    Attributes:
        channels: channels of the stem, a multiple of 32; a level has `channels` times its
            multiplier.
        channel_mult: multiplier of each level, the highest resolution first.
        num_blocks: blocks per level of the encoder.
        attention_resolutions: heights in pixels of the levels with attention. The parameters
            therefore depend on the image size.
        dropout: probability that a feature of a block's branch is dropped. Nothing is dropped
            without the Flax random stream "dropout".
        out_channels: channels of the output; twice those of the input for a learned variance.
        style: `ADM` or `DDPMPP`.
        num_classes: number of classes, or None for an unconditional network.
        dtype: compute dtype, float32 or bfloat16. Softmax and normalisation statistics are float32.
        remat: which results of a block are recomputed in the backward pass, see `remat.REMATS`.
        constrain: x [B, ...] -> x, a sharding constraint on the activations between blocks.
    """

    channels: int
    channel_mult: tuple[int, ...]
    num_blocks: int
    attention_resolutions: tuple[int, ...]
    dropout: float
    out_channels: int
    style: Style
    num_classes: int | None = None
    dtype: DTypeLike = jnp.float32
    remat: str = "none"
    constrain: Callable[[jax.Array], jax.Array] = unconstrained

    @nn.compact
    def __call__(
        self,
        x: jax.Array,
        time: jax.Array,
        label: jax.Array | None = None,
        augment: jax.Array | None = None,
    ) -> jax.Array:
        """Return the raw network output.

        Args:
            x: float [B, H, W, C], scaled to about unit variance.
            time: float [B], the family's time input; any real number.
            label: int32 [B] in 0..num_classes; None if and only if the network is unconditional.
                The null class, num_classes, embeds to zero like a dropped label in EDM; so the
                parameters are those of EDM's published networks.
            augment: float [B, 9], augmentation labels, see `cdt.training.augment`; None for
                images without augmentation.

        Returns:
            f32 [B, H, W, out_channels].

        Raises:
            ValueError: H or W cannot be halved at every level; an attention resolution that no
                level has; channels not divisible by groups or heads; a label without `num_classes`
                or the reverse.
        """
        check_label(label, self.num_classes, "U-Net")
        self._check_size(*x.shape[1:3])
        style, dtype, levels = self.style, self.dtype, len(self.channel_mult)
        condition = style.condition(self.channels, self.num_classes, dtype, name="condition")(
            time, label, augment
        )
        condition = self.constrain(condition)
        block_of = rematerialised(Block, self.remat)

        def block(
            name: str,
            hidden: jax.Array,
            features: int,
            attention: bool = False,
            resample: Callable[[jax.Array], jax.Array] | None = None,
        ) -> jax.Array:
            apply = block_of(features, attention, self.dropout, style, dtype, resample, name=name)
            return self.constrain(apply(hidden, condition))

        hidden = self.constrain(conv(x, self.channels, style.init, dtype, "stem"))
        skips = [hidden]
        for level, multiplier in enumerate(self.channel_mult):
            if level > 0:
                hidden = block(f"down_{level}", hidden, hidden.shape[-1], resample=downsample)
                skips.append(hidden)
            attention = hidden.shape[1] in self.attention_resolutions
            for i in range(self.num_blocks):
                features = self.channels * multiplier
                hidden = block(f"encoder_{level}_{i}", hidden, features, attention)
                skips.append(hidden)

        hidden = block("middle_0", hidden, hidden.shape[-1], attention=True)
        hidden = block("middle_1", hidden, hidden.shape[-1])

        for level in reversed(range(levels)):
            if level < levels - 1:
                hidden = block(f"up_{level}", hidden, hidden.shape[-1], resample=upsample)
            for i in range(self.num_blocks + 1):
                attention = hidden.shape[1] in self.attention_resolutions
                attention &= i == self.num_blocks or not style.attend_once_up
                hidden = jnp.concatenate([hidden, skips.pop()], axis=-1)
                features = self.channels * self.channel_mult[level]
                hidden = block(f"decoder_{level}_{i}", hidden, features, attention)

        hidden = nn.silu(group_norm(hidden, style.norm_epsilon, "final_norm"))
        return conv(hidden, self.out_channels, style.last_init, dtype, "final").astype(jnp.float32)

    def _check_size(self, height: int, width: int) -> None:
        halvings = len(self.channel_mult) - 1
        if height % 2**halvings or width % 2**halvings:
            raise ValueError(
                f"The image size {height}x{width} cannot be halved {halvings} times, which a U-Net "
                f"of {halvings + 1} levels needs; use fewer levels or another size."
            )
        heights = [height >> level for level in range(halvings + 1)]
        if missing := set(self.attention_resolutions) - set(heights):
            raise ValueError(
                f"attention_resolutions has {max(missing)}; the levels of this U-Net have the "
                f"resolutions {', '.join(map(str, heights))}."
            )


def adm(**fields: Any) -> UNet:
    """Return an ADM U-Net: `adm(**ADM_SIZES["imagenet64"], out_channels=3, num_classes=1000)`.

    Args:
        **fields: the attributes of `UNet` except `style`.
    """
    return UNet(style=ADM, **fields)


def ddpmpp(**fields: Any) -> UNet:
    """Return a DDPM++ U-Net: `ddpmpp(**DDPMPP_SIZES["cifar10"], out_channels=3)`.

    Args:
        **fields: the attributes of `UNet` except `style`.
    """
    return UNet(style=DDPMPP, **fields)


# Karras et al. 2022, appendix F.
ADM_SIZES = {
    "imagenet64": dict(
        channels=192, channel_mult=(1, 2, 3, 4), num_blocks=3,
        attention_resolutions=(32, 16, 8), dropout=0.10,
    ),
}  # fmt: skip
DDPMPP_SIZES = {
    "cifar10": dict(
        channels=128, channel_mult=(2, 2, 2), num_blocks=4,
        attention_resolutions=(16,), dropout=0.13,
    ),
    "ffhq64": dict(
        channels=128, channel_mult=(1, 2, 2, 2), num_blocks=4,
        attention_resolutions=(16,), dropout=0.05,
    ),
}  # fmt: skip
