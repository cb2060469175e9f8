"""The ADM and DDPM++ U-Nets, with the settings of EDM (Karras et al. 2022, arXiv 2206.00364).

ADM is Dhariwal & Nichol's (2021, arXiv 2105.05233), DDPM++ Song et al.'s (2021, arXiv 2011.13456).
They are one network of one kind of block; a `Style` holds all that sets them apart.
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
    """What sets the two U-Nets apart. The initialisations are those of EDM's code."""

    condition: type[nn.Module]
    adaptive_scale: bool  # the condition scales and shifts what is normalised; or is added before
    head_channels: int | None  # width of an attention head; None: there is one head
    skip_scale: float  # of each sum of a branch and what goes past it
    resample_projection: bool  # what goes past a resampling block is projected as well
    attend_once_up: bool  # on the way up only the last block of a resolution attends
    norm_epsilon: float
    init: Init
    attention_init: Init  # of queries, keys and values
    last_init: Init  # of each last layer before a sum, and of the output


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
    """What self-attention between all pixels adds: [B, H, W, C] -> [B, H, W, C]; softmax float32.

    Raises:
        ValueError: if C is not divisible by the number of heads.
    """

    style: Style
    dtype: DTypeLike

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        batch, height, width, channels = x.shape
        # A network narrower than one head has one narrower head.
        heads = max(1, channels // (self.style.head_channels or channels))
        if channels % heads:
            raise ValueError(f"{channels} channels are not divisible by {heads} attention heads.")
        x = group_norm(x, self.style.norm_epsilon, "norm")
        x = x.reshape(batch, height * width, channels)
        qkv = dense(x, 3 * channels, self.style.attention_init, self.dtype, "qkv")
        qkv = qkv.reshape(batch, height * width, 3, heads, channels // heads)
        x = attention(qkv[:, :, 0], qkv[:, :, 1], qkv[:, :, 2])
        x = x.reshape(batch, height, width, channels)
        return dense(x, channels, self.style.last_init, self.dtype, "out")


class Block(nn.Module):
    """A residual block, then attention where asked for.

    Takes x [B, H, W, C] and the condition [B, D]; returns [B, H', W', out_channels].

    Attributes:
        resample: `downsample`, `upsample` or None; of both the branch and what goes past it.
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
        # No random numbers for dropout: no dropout, as in evaluation.
        hidden = nn.Dropout(self.dropout, deterministic=not self.has_rng("dropout"))(hidden)
        hidden = conv(hidden, features, style.last_init, dtype, "conv_out")

        past = resample(x)
        if project:
            past = dense(past, features, style.init, dtype, "skip")
        x = (past + hidden) * style.skip_scale
        if self.attention:
            x = (x + Attention(style, dtype, name="attention")(x)) * style.skip_scale
        return x


class UNet(nn.Module):
    """ADM or DDPM++, for images or latents: made by `adm` and `ddpmpp`.

    A stem, `num_blocks` blocks a level on the way down, two blocks in the middle of which the first
    attends, and `num_blocks + 1` blocks a level on the way up, each given what one block (or the
    stem, or a downsampling) put out on the way down. Every level halves the image.

    Parameters are float32. At initialisation the output is zero (ADM), or smaller than 1e-3
    (DDPM++, whose last layers start at 1e-5 of the usual size).

    Attributes:
        channels: of the stem; a level has `channels` times its multiplier. A multiple of 32.
        channel_mult: multiplier of each level, the finest first.
        num_blocks: blocks of a level on the way down.
        attention_resolutions: heights, in pixels, of the images that the blocks attend to. The
            parameters thus belong to one size of images.
        dropout: probability with which a feature is dropped in a block's branch, where the flax
            stream "dropout" is given; without it nothing is dropped.
        out_channels: channels of the output; twice the input's where the variance is learned.
        style: `ADM` or `DDPMPP`.
        num_classes: number of classes, or None for an unconditional network.
        dtype: compute dtype, float32 or bfloat16. Softmax and normalisation statistics are float32.
        remat: what a block computes again in the backward pass, see `remat.REMATS`.
        constrain: x [B, ...] -> x, applied to what passes between blocks: where examples lie.
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
        """The raw network output.

        Args:
            x: float [B, H, W, C], scaled to about unit variance.
            time: float [B], the family's time input; any real number.
            label: int32 [B] in 0..num_classes; None if and only if the network is unconditional.
                num_classes is the null class. It has no row of its own: it embeds to zero, as a
                dropped label does in EDM, so that the parameters are those of the published nets.
            augment: float [B, 9], what was done to the images, see `cdt.training.augment`; None:
                nothing.

        Returns:
            float32 [B, H, W, out_channels].

        Raises:
            ValueError: if H or W cannot be halved once a level, no level has a resolution that
                attention is asked for, the channels do not split into groups and heads, or `label`
                does not fit `num_classes`.
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
                f"image size {height}x{width} cannot be halved {halvings} times, as a U-Net of "
                f"{halvings + 1} levels does."
            )
        heights = [height >> level for level in range(halvings + 1)]
        if missing := set(self.attention_resolutions) - set(heights):
            raise ValueError(
                f"attention is asked for at resolution {max(missing)}; the levels of this U-Net "
                f"have {', '.join(map(str, heights))}."
            )


def adm(**fields: Any) -> UNet:
    """An ADM U-Net: `adm(**ADM_SIZES["imagenet64"], out_channels=3, num_classes=1000)`.

    Args:
        **fields: those of `UNet` but `style`.
    """
    return UNet(style=ADM, **fields)


def ddpmpp(**fields: Any) -> UNet:
    """A DDPM++ U-Net: `ddpmpp(**DDPMPP_SIZES["cifar10"], out_channels=3)`.

    Args:
        **fields: those of `UNet` but `style`.
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
