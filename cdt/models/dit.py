"""DiT: the diffusion transformer with adaLN-Zero blocks.

Source: Peebles & Xie 2023, arXiv 2212.09748. Text is read with cross-attention, as in PixArt-alpha
(Chen et al. 2023, arXiv 2310.00426).
"""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from cdt.models.conditioning import LabelEmbedder, TimestepEmbedder, augment_embed, check_label
from cdt.models.dense import Dense
from cdt.models.layers import (
    CrossAttention,
    Mlp,
    SelfAttention,
    adaptive_layer_norm,
    gated,
    patchify,
    position_embedding,
    unconstrained,
    unpatchify,
)
from cdt.models.remat import rematerialised
from cdt.models.routing import Routing

# name -> (depth, width, attention heads), table 1 of the paper.
DIT_SIZES = {
    "S": (12, 384, 6),
    "B": (12, 768, 12),
    "L": (24, 1024, 16),
    "XL": (28, 1152, 16),
}


def named_dit(name: str, **options: Any) -> "DiT":
    """Return the DiT of a size in the paper: `named_dit("XL/2", out_channels=8, num_classes=1000)`.

    Args:
        name: "SIZE/PATCH", with SIZE one of `DIT_SIZES` and PATCH a positive integer.
        **options: the other attributes of `DiT`.

    Raises:
        ValueError: a name of another form.
    """
    size, _, patch = name.partition("/")
    if size not in DIT_SIZES or not patch.isdecimal() or int(patch) < 1:
        raise ValueError(
            f"The name of the DiT is '{name}'; it must be SIZE/PATCH, such as 'B/2', with SIZE one "
            f"of {', '.join(DIT_SIZES)}."
        )
    depth, width, heads = DIT_SIZES[size]
    return DiT(patch_size=int(patch), hidden_size=width, depth=depth, num_heads=heads, **options)


class DiTBlock(nn.Module):
    """A block of the DiT: self-attention, cross-attention to the text if there is any, and an MLP.

    The condition shifts and scales the normalised input of self-attention and MLP, and gates their
    outputs (adaLN-Zero). With a mask m of the channels the block returns Block(m x) + (1 - m) x
    (Park et al. 2023, arXiv 2310.07138).

    Called with tokens [B, N, D], silu(condition) [B, D], mask [B, D] or None and, for text, the
    states [B, L, D] and their lengths int32 [B]. Returns (tokens [B, N, D], None), the form that
    `nn.scan` needs.
    """

    num_heads: int
    mlp_hidden_size: int
    dtype: DTypeLike
    constrain: Callable[[jax.Array], jax.Array]
    separate_qkv: bool

    @nn.compact
    def __call__(
        self, x: jax.Array, condition: jax.Array, mask: jax.Array | None, *text: jax.Array
    ) -> tuple[jax.Array, None]:
        modulation = Dense(
            6 * x.shape[-1], dtype=self.dtype, kernel_init=nn.initializers.zeros, name="adaln"
        )(condition)
        shift_1, scale_1, gate_1, shift_2, scale_2, gate_2 = jnp.split(modulation, 6, axis=-1)
        attention = SelfAttention(self.num_heads, self.dtype, self.separate_qkv, name="attention")
        mlp = Mlp(self.mlp_hidden_size, self.dtype, name="mlp")
        if mask is not None:
            x, bypass = mask[:, None] * x, (1 - mask[:, None]) * x
        x = x + gated(attention(adaptive_layer_norm(x, shift_1, scale_1)), gate_1)
        x = self.constrain(x)
        if text:
            x = x + CrossAttention(self.num_heads, self.dtype, name="cross_attention")(x, *text)
        x = x + gated(mlp(adaptive_layer_norm(x, shift_2, scale_2)), gate_2)
        if mask is not None:
            x = x + bypass
        return self.constrain(x), None


class DiT(nn.Module):
    """Diffusion transformer on patches of images or latents.

    Parameters are float32. Those of the blocks are stacked, [depth, ...], also with `unroll`.
    At initialisation the output is zero (adaLN-Zero).

    Attributes:
        patch_size: side of a square patch, in pixels.
        hidden_size: width D of the tokens; divisible by 4 and by `num_heads`.
        depth: number of blocks.
        num_heads: number of attention heads.
        out_channels: channels of the output; twice those of the input for a learned variance.
        mlp_ratio: width of the MLP's hidden layer divided by D.
        num_classes: number of classes, or None for a network without class labels.
        text_width: width W of the text states, or None for a network without text.
        dtype: compute dtype, float32 or bfloat16. Softmax and normalisation statistics are float32.
        unroll: True to unroll the loop over the blocks. It runs faster than a scan; the compile
            time grows with `depth`.
        remat: which results of a block are recomputed in the backward pass, see `remat.REMATS`.
        constrain: x [B, ...] -> x, a sharding constraint on the activations between blocks.
        separate_qkv: True to compute queries, keys and values in three products, see `SplitDense`.
        routing: channels that a block uses at each noise level, see `routing.task_routing`; None
            for all channels.
    """

    patch_size: int
    hidden_size: int
    depth: int
    num_heads: int
    out_channels: int
    mlp_ratio: float = 4.0
    num_classes: int | None = None
    text_width: int | None = None
    dtype: DTypeLike = jnp.float32
    unroll: bool = False
    remat: str = "none"
    constrain: Callable[[jax.Array], jax.Array] = unconstrained
    separate_qkv: bool = False
    routing: Routing | None = None

    @nn.compact
    def __call__(
        self,
        x: jax.Array,
        time: jax.Array,
        label: jax.Array | None = None,
        text: jax.Array | None = None,
        text_length: jax.Array | None = None,
        augment: jax.Array | None = None,
    ) -> jax.Array:
        """Return the raw network output.

        Args:
            x: float [B, H, W, C], scaled to about unit variance.
            time: float [B], the family's time input; any real number.
            label: int32 [B] in 0..num_classes, where num_classes is the null class; None if and
                only if the network has no classes.
            text: float [B, L, W], states of a text encoder; None if and only if the network has no
                text.
            text_length: int32 [B] in 1..L, number of states of each example; the rest is padding.
            augment: float [B, 9], augmentation labels, see `cdt.training.augment`; None for
                images without augmentation.

        Returns:
            f32 [B, H, W, out_channels].

        Raises:
            ValueError: H or W not divisible by `patch_size`; D not divisible by `num_heads` and 4;
                a label without `num_classes` or the reverse; text without `text_width`, of another
                width, or missing.
        """
        check_label(label, self.num_classes, "DiT")
        if (None if text is None else text.shape[-1]) != self.text_width:
            given = "there is no text" if text is None else f"the text has width {text.shape[-1]}"
            raise ValueError(f"The DiT has text_width {self.text_width}, but {given}.")
        rows, columns = x.shape[1] // self.patch_size, x.shape[2] // self.patch_size

        tokens = patchify(x, self.patch_size).astype(self.dtype)
        tokens = Dense(self.hidden_size, dtype=self.dtype, name="patch_embed")(tokens)
        positions = position_embedding(rows, columns, self.hidden_size)
        tokens = self.constrain(tokens + jnp.asarray(positions, self.dtype))

        condition = TimestepEmbedder(self.hidden_size, self.dtype, name="time_embed")(time)
        if label is not None and self.num_classes is not None:
            condition = condition + LabelEmbedder(
                self.num_classes, self.hidden_size, self.dtype, name="label_embed"
            )(label)
        if augment is not None:
            condition = condition + augment_embed(
                augment, self.hidden_size, nn.initializers.zeros, self.dtype
            )
        condition = self.constrain(nn.silu(condition))
        text_inputs: tuple[jax.Array | None, ...] = ()
        if text is not None:
            states = Mlp(self.hidden_size, self.dtype, self.hidden_size, name="text_embed")(
                text.astype(self.dtype)
            )
            text_inputs = (self.constrain(states), text_length)
        mask = None
        if self.routing is not None:
            mask = self.constrain(self.routing(time, self.hidden_size).astype(self.dtype))

        blocks = nn.scan(
            rematerialised(DiTBlock, self.remat, prevent_cse=self.unroll),
            variable_axes={"params": 0},
            split_rngs={"params": True},
            in_axes=nn.broadcast,
            length=self.depth,
            unroll=self.depth if self.unroll else 1,
        )
        tokens, _ = blocks(
            self.num_heads,
            int(self.mlp_ratio * self.hidden_size),
            self.dtype,
            self.constrain,
            self.separate_qkv,
            name="blocks",
        )(tokens, condition, mask, *text_inputs)

        zeros = nn.initializers.zeros
        modulation = Dense(
            2 * self.hidden_size, dtype=self.dtype, kernel_init=zeros, name="final_adaln"
        )(condition)
        shift, scale = jnp.split(modulation, 2, axis=-1)
        tokens = adaptive_layer_norm(tokens, shift, scale)
        tokens = Dense(
            self.patch_size**2 * self.out_channels,
            dtype=self.dtype,
            kernel_init=zeros,
            name="final",
        )(tokens)
        return unpatchify(tokens, self.patch_size, rows, columns).astype(jnp.float32)
