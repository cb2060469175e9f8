"""The autoencoder of Stable Diffusion, AutoencoderKL in `diffusers`.

Submodules have the names of its state dict, with `_0` for `.0`; `interop.autoencoder_files` reads
its files by these names. Every product is computed in full float32, because with the lower default
precision of accelerators the latents would depend on the device that encoded them.

Source: Rombach et al. 2022, arXiv 2112.10752.
"""

from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from cdt.models.dense import Dense

_HIGHEST = jax.lax.Precision.HIGHEST


class Moments(NamedTuple):
    """The Gaussian distribution of the latents of an image; its elements are independent.

    Attributes:
        mean: f32 [B, h, w, C].
        log_variance: f32 [B, h, w, C] in [-30, 20].
    """

    mean: jax.Array
    log_variance: jax.Array


class Autoencoder(nn.Module):
    """Encoder and decoder, with the sizes of Stable Diffusion 1 and 2 as defaults.

    Attributes:
        block_channels: channels at each resolution, from the images to the latents. From one to
            the next the side is halved.
        layers_per_block: residual blocks per resolution; the decoder has one more.
        latent_channels: C, channels of the latents.
        image_channels: channels of the images.
        groups: groups of every group normalisation; must divide each number of channels.
    """

    block_channels: tuple[int, ...] = (128, 256, 512, 512)
    layers_per_block: int = 2
    latent_channels: int = 4
    image_channels: int = 3
    groups: int = 32

    @property
    def downsampling(self) -> int:
        """The side of an image divided by the side of its latents."""
        return 2 ** (len(self.block_channels) - 1)

    def setup(self) -> None:
        sizes = (self.block_channels, self.layers_per_block, self.groups)
        self.encoder = Encoder(*sizes, 2 * self.latent_channels)
        self.decoder = Decoder(*sizes, self.image_channels)
        self.quant_conv = _conv(2 * self.latent_channels, side=1)
        self.post_quant_conv = _conv(self.latent_channels, side=1)

    def __call__(self, images: jax.Array) -> jax.Array:
        """Encode images to the mean and decode it; for `init`, as this uses every parameter."""
        return self.decode(self.encode(images).mean)

    def encode(self, images: jax.Array) -> Moments:
        """Encode images to the moments of their latents.

        Args:
            images: f32 [B, H, W, image_channels], usually in [-1, 1].

        Returns:
            mean and log variance, f32 [B, h, w, C], where h = H / downsampling.

        Raises:
            ValueError: H or W is not divisible by `downsampling`.
        """
        height, width = images.shape[1:3]
        if height % self.downsampling or width % self.downsampling:
            raise ValueError(
                f"The autoencoder cannot encode images of {height}x{width}: both sides must be "
                f"divisible by {self.downsampling}."
            )
        mean, log_variance = jnp.split(self.quant_conv(self.encoder(images)), 2, axis=-1)
        return Moments(mean, jnp.clip(log_variance, -30.0, 20.0))

    def decode(self, latents: jax.Array) -> jax.Array:
        """Decode raw latents f32 [B, h, w, C] to images f32 [B, H, W, channels], unclipped."""
        return self.decoder(self.post_quant_conv(latents))


class Encoder(nn.Module):
    """Images [B, H, W, .] -> [B, h, w, out_channels]; a 1x1 convolution to moments follows."""

    block_channels: tuple[int, ...]
    layers_per_block: int
    groups: int
    out_channels: int

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        x = _conv(self.block_channels[0], name="conv_in")(x)
        last = len(self.block_channels) - 1
        for i, channels in enumerate(self.block_channels):
            resample = "down" if i < last else None
            x = ResolutionBlock(
                channels, self.layers_per_block, self.groups, resample, name=f"down_blocks_{i}"
            )(x)
        x = MidBlock(self.groups, name="mid_block")(x)
        x = nn.silu(_norm(self.groups, name="conv_norm_out")(x))
        return _conv(self.out_channels, name="conv_out")(x)


class Decoder(nn.Module):
    """Latents [B, h, w, C], after a 1x1 convolution, -> images [B, H, W, out_channels]."""

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
            resample = "up" if i < last else None
            x = ResolutionBlock(
                channels, self.layers_per_block + 1, self.groups, resample, name=f"up_blocks_{i}"
            )(x)
        x = nn.silu(_norm(self.groups, name="conv_norm_out")(x))
        return _conv(self.out_channels, name="conv_out")(x)


class ResolutionBlock(nn.Module):
    """Residual blocks, then a change of resolution: [B, H, W, .] -> [B, H', W', channels].

    Attributes:
        resample: "down" halves the side, "up" doubles it, None keeps it.
    """

    channels: int
    layers: int
    groups: int
    resample: str | None

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        for i in range(self.layers):
            x = ResidualBlock(self.channels, self.groups, name=f"resnets_{i}")(x)
        if self.resample == "down":
            return Downsample(name="downsamplers_0")(x)
        return Upsample(name="upsamplers_0")(x) if self.resample == "up" else x


class MidBlock(nn.Module):
    """Residual block, attention, residual block, at the lowest resolution; keeps the shape."""

    groups: int

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        x = ResidualBlock(x.shape[-1], self.groups, name="resnets_0")(x)
        x = Attention(self.groups, name="attentions_0")(x)
        return ResidualBlock(x.shape[-1], self.groups, name="resnets_1")(x)


class ResidualBlock(nn.Module):
    """Residual block: [B, H, W, .] -> [B, H, W, channels].

    x + conv(silu(norm(conv(silu(norm(x)))))); the first x passes a 1x1 convolution if its number of
    channels differs from `channels`.
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
    """x + self-attention over all pixels, with one head: [B, H, W, D] -> [B, H, W, D]."""

    groups: int

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        batch, height, width, channels = x.shape
        tokens = _norm(self.groups, name="group_norm")(x).reshape(batch, -1, channels)
        query, key, value = (
            Dense(channels, precision=_HIGHEST, name=name)(tokens)
            for name in ("to_q", "to_k", "to_v")
        )
        # Not jax.nn.dot_product_attention, which has no argument for the precision.
        scores = jnp.einsum("bqd,bkd->bqk", query, key, precision=_HIGHEST) * channels**-0.5
        attended = jnp.einsum("bqk,bkd->bqd", nn.softmax(scores), value, precision=_HIGHEST)
        out = Dense(channels, precision=_HIGHEST, name="to_out_0")(attended)
        return x + out.reshape(x.shape)


class Downsample(nn.Module):
    """Halve the side with a convolution of stride 2, padded at the bottom and right only."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        return _conv(x.shape[-1], strides=2, padding=((0, 1), (0, 1)), name="conv")(x)


class Upsample(nn.Module):
    """Repeat each pixel to 2x2 pixels, then convolve."""

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
    # The fast variance, E[x^2] - E[x]^2, is less precise.
    return nn.GroupNorm(groups, epsilon=1e-6, use_fast_variance=False, **options)
