"""The autoencoder of Stable Diffusion: images <-> latents of an eighth of the side.

Rombach et al. 2022 (arXiv 2112.10752), as `diffusers` calls it AutoencoderKL. Submodules bear the
names of its state dict, with `_0` for `.0`, by which `interop.autoencoder_files` reads its files.
Everything is computed in full float32: the faster default of accelerators would make latents
depend on the device that encoded them.
"""

from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from cdt.models.dense import Dense

_HIGHEST = jax.lax.Precision.HIGHEST


class Moments(NamedTuple):
    """The Gaussian that an image is encoded to, independent in every element."""

    mean: jax.Array  # f32[B, h, w, C]
    log_variance: jax.Array  # f32[B, h, w, C] in [-30, 20]


class Autoencoder(nn.Module):
    """Encoder and decoder; the defaults are those of Stable Diffusion 1 and 2.

    Attributes:
        block_channels: width at each resolution; each but the last halves the side.
        layers_per_block: residual blocks a resolution, one more in the decoder.
        latent_channels: C.
        image_channels: of the images.
        groups: of every group normalisation; must divide each width.
    """

    block_channels: tuple[int, ...] = (128, 256, 512, 512)
    layers_per_block: int = 2
    latent_channels: int = 4
    image_channels: int = 3
    groups: int = 32

    @property
    def downsampling(self) -> int:
        """The side of an image over the side of its latents."""
        return 2 ** (len(self.block_channels) - 1)

    def setup(self) -> None:
        sizes = (self.block_channels, self.layers_per_block, self.groups)
        self.encoder = Encoder(*sizes, 2 * self.latent_channels)
        self.decoder = Decoder(*sizes, self.image_channels)
        self.quant_conv = _conv(2 * self.latent_channels, side=1)
        self.post_quant_conv = _conv(self.latent_channels, side=1)

    def __call__(self, images: jax.Array) -> jax.Array:
        """Images encoded to their mean and decoded: touches every parameter, for `init`."""
        return self.decode(self.encode(images).mean)

    def encode(self, images: jax.Array) -> Moments:
        """Images f32[B, H, W, image_channels], normally in [-1, 1], -> moments [B, h, w, C].

        Raises:
            ValueError: if H or W is not divisible by `downsampling`.
        """
        height, width = images.shape[1:3]
        if height % self.downsampling or width % self.downsampling:
            raise ValueError(
                f"images of {height}x{width} cannot be encoded: both sides must be divisible by "
                f"{self.downsampling}."
            )
        mean, log_variance = jnp.split(self.quant_conv(self.encoder(images)), 2, axis=-1)
        return Moments(mean, jnp.clip(log_variance, -30.0, 20.0))

    def decode(self, latents: jax.Array) -> jax.Array:
        """Latents f32[B, h, w, C], unscaled, -> images in the range that was encoded, unclipped."""
        return self.decoder(self.post_quant_conv(latents))


class Encoder(nn.Module):
    """Images [B, H, W, .] -> [B, h, w, out_channels], before the 1x1 convolution to moments."""

    block_channels: tuple[int, ...]
    layers_per_block: int
    groups: int
    out_channels: int

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        x = _conv(self.block_channels[0], name="conv_in")(x)
        last = len(self.block_channels) - 1
        for i, channels in enumerate(self.block_channels):
            block = DownBlock(
                channels, self.layers_per_block, self.groups, i < last, name=f"down_blocks_{i}"
            )
            x = block(x)
        x = MidBlock(self.groups, name="mid_block")(x)
        x = nn.silu(_norm(self.groups, name="conv_norm_out")(x))
        return _conv(self.out_channels, name="conv_out")(x)


class Decoder(nn.Module):
    """Latents [B, h, w, C], after their 1x1 convolution, -> images [B, H, W, out_channels]."""

    block_channels: tuple[int, ...]
    layers_per_block: int
    groups: int
    out_channels: int

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        x = _conv(self.block_channels[-1], name="conv_in")(x)
        x = MidBlock(self.groups, name="mid_block")(x)
        last = len(self.block_channels) - 1
        for i, channels in enumerate(reversed(self.block_channels)):
            block = UpBlock(
                channels, self.layers_per_block + 1, self.groups, i < last, name=f"up_blocks_{i}"
            )
            x = block(x)
        x = nn.silu(_norm(self.groups, name="conv_norm_out")(x))
        return _conv(self.out_channels, name="conv_out")(x)


class DownBlock(nn.Module):
    """Residual blocks, then half the side: [B, H, W, .] -> [B, H/2, W/2, channels]."""

    channels: int
    layers: int
    groups: int
    downsample: bool

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        for i in range(self.layers):
            x = ResidualBlock(self.channels, self.groups, name=f"resnets_{i}")(x)
        return Downsample(name="downsamplers_0")(x) if self.downsample else x


class UpBlock(nn.Module):
    """Residual blocks, then twice the side: [B, H, W, .] -> [B, 2H, 2W, channels]."""

    channels: int
    layers: int
    groups: int
    upsample: bool

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        for i in range(self.layers):
            x = ResidualBlock(self.channels, self.groups, name=f"resnets_{i}")(x)
        return Upsample(name="upsamplers_0")(x) if self.upsample else x


class MidBlock(nn.Module):
    """Residual block, attention, residual block, at the lowest resolution: shape preserved."""

    groups: int

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        x = ResidualBlock(x.shape[-1], self.groups, name="resnets_0")(x)
        x = Attention(self.groups, name="attentions_0")(x)
        return ResidualBlock(x.shape[-1], self.groups, name="resnets_1")(x)


class ResidualBlock(nn.Module):
    """x + conv(silu(norm(conv(silu(norm(x)))))), x through a 1x1 convolution if its width changes.

    [B, H, W, .] -> [B, H, W, channels].
    """

    channels: int
    groups: int

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        hidden = nn.silu(_norm(self.groups, name="norm1")(x))
        hidden = _conv(self.channels, name="conv1")(hidden)
        hidden = nn.silu(_norm(self.groups, name="norm2")(hidden))
        hidden = _conv(self.channels, name="conv2")(hidden)
        if x.shape[-1] != self.channels:
            x = _conv(self.channels, side=1, name="conv_shortcut")(x)
        return x + hidden


class Attention(nn.Module):
    """x + self-attention of all pixels, with one head: [B, H, W, D] -> the same."""

    groups: int

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        batch, height, width, channels = x.shape
        tokens = _norm(self.groups, name="group_norm")(x).reshape(batch, -1, channels)
        query, key, value = (
            Dense(channels, precision=_HIGHEST, name=name)(tokens)
            for name in ("to_q", "to_k", "to_v")
        )
        # Not jax.nn.dot_product_attention, which has no way to ask for full precision.
        scores = jnp.einsum("bqd,bkd->bqk", query, key, precision=_HIGHEST) * channels**-0.5
        attended = jnp.einsum("bqk,bkd->bqd", nn.softmax(scores), value, precision=_HIGHEST)
        out = Dense(channels, precision=_HIGHEST, name="to_out_0")(attended)
        return x + out.reshape(x.shape)


class Downsample(nn.Module):
    """Half the side by a convolution of stride 2, padded below and right only."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        return _conv(x.shape[-1], strides=2, padding=((0, 1), (0, 1)), name="conv")(x)


class Upsample(nn.Module):
    """Each pixel becomes 2x2 pixels, then a convolution."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        return _conv(x.shape[-1], name="conv")(x.repeat(2, axis=1).repeat(2, axis=2))


def _conv(
    features: int,
    side: int = 3,
    strides: int = 1,
    padding: str | tuple[tuple[int, int], ...] = "SAME",
    **options: Any,
) -> nn.Conv:
    return nn.Conv(features, (side, side), strides, padding, precision=_HIGHEST, **options)


def _norm(groups: int, **options: Any) -> nn.GroupNorm:
    # The fast variance is E[x^2] - E[x]^2, whose cancellation costs digits.
    return nn.GroupNorm(groups, epsilon=1e-6, use_fast_variance=False, **options)
