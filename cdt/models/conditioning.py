"""Embeddings of the noise level, the class label and the augmentation."""

import math
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike

from cdt.models.dense import Dense

FREQUENCY_DIM = 256
MAX_PERIOD = 10_000.0
_NORMAL_002 = nn.initializers.normal(stddev=0.02)


def timestep_embedding(
    time: jax.Array, dim: int = FREQUENCY_DIM, max_period: float = MAX_PERIOD
) -> jax.Array:
    """Return sinusoidal features of the network's time input, [cos, sin].

    Feature i of each half is the cos or sin of time * max_period^(-i / (dim / 2)).

    Args:
        time: float [B]; any real number (DDPM: 0..T-1, EDM: ln(sigma)/4, flow: [0, 1]).
        dim: number of features, even.
        max_period: longest period divided by 2 pi, in units of `time`.

    Returns:
        float32 [B, dim] in [-1, 1].

    Source: Ho et al. 2020, arXiv 2006.11239; the order is that of Peebles & Xie 2023,
    arXiv 2212.09748.
    """
    half = dim // 2
    frequencies = np.exp(-math.log(max_period) * np.arange(half, dtype=np.float64) / half)
    angles = time.astype(jnp.float32)[:, None] * jnp.asarray(frequencies, jnp.float32)
    return jnp.concatenate([jnp.cos(angles), jnp.sin(angles)], axis=-1)


def augment_embed(
    labels: jax.Array, features: int, kernel_init: nn.initializers.Initializer, dtype: DTypeLike
) -> jax.Array:
    """Return the embedding of augmentation labels, as a layer of the calling Flax module.

    The layer has no bias, so the labels of an image without augmentation, zeros, embed to zero.

    Args:
        labels: float [B, L].
        features: width of the embedding.
        kernel_init: initializer of the kernel.
        dtype: dtype of the result.

    Returns:
        [B, features].

    Source: Karras et al. 2022, arXiv 2206.00364, appendix F.2.
    """
    layer = nn.Dense(features, use_bias=False, kernel_init=kernel_init, name="augment_embed")
    return layer(labels.astype(jnp.float32)).astype(dtype)


def check_label(label: jax.Array | None, num_classes: int | None, network: str) -> None:
    """Check that a label is given if and only if the network has classes.

    Args:
        label: int32 [B], or None.
        num_classes: number of classes, or None for an unconditional network.
        network: name of the network, for the message.

    Raises:
        ValueError: a label without classes, or classes without a label.
    """
    if label is None and num_classes is not None:
        raise ValueError(f"The {network} has {num_classes} classes; it needs a label per example.")
    if label is not None and num_classes is None:
        raise ValueError(f"The {network} has no classes; it takes no label.")


class TimestepEmbedder(nn.Module):
    """Sinusoidal features and a two-layer MLP with SiLU: time [B] -> [B, hidden_size]."""

    hidden_size: int
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, time: jax.Array) -> jax.Array:
        x = timestep_embedding(time)
        x = Dense(self.hidden_size, dtype=self.dtype, kernel_init=_NORMAL_002, name="in")(x)
        return Dense(self.hidden_size, dtype=self.dtype, kernel_init=_NORMAL_002, name="out")(
            nn.silu(x)
        )


class LabelEmbedder(nn.Module):
    """Table of class embeddings with a row for the null class: label int32 [B] -> [B, hidden_size].

    Labels are 0..num_classes; num_classes is the null class of classifier-free guidance (Ho &
    Salimans 2022, arXiv 2207.12598). Any other label embeds to zero. The train step, not this
    module, drops labels.
    """

    num_classes: int
    hidden_size: int
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, label: jax.Array) -> jax.Array:
        rows = self.num_classes + 1
        table = self.param("table", _NORMAL_002, (rows, self.hidden_size), jnp.float32)
        # A product with one-hot rows, not a gather: the gradient of a gather is a scatter-add,
        # which is nondeterministic on a GPU. With HIGHEST the result is exactly the row.
        one_hot = jax.nn.one_hot(label, rows, dtype=jnp.float32)
        return jnp.dot(one_hot, table, precision=jax.lax.Precision.HIGHEST).astype(self.dtype)


def with_classes(fresh: dict[str, Any], params: dict[str, Any]) -> dict[str, Any]:
    """Return the parameters of a trained network for another number of classes.

    Args:
        fresh: parameters of a newly initialised DiT or U-Net, with or without classes.
        params: parameters of the trained network, which differs in its classes only; it can have
            none.

    Returns:
        `params` if the classes are equal. Otherwise `params` with the class embeddings of `fresh`,
        except the trained embedding of the null class: the last row of a DiT's table, or the bias
        of DDPM++ (ADM has none).
    """
    unet = "condition" in fresh
    name = "label" if unet else "label_embed"
    ours, theirs = ((tree["condition"] if unet else tree).get(name, {}) for tree in (fresh, params))
    if jax.tree.map(jnp.shape, ours) == jax.tree.map(jnp.shape, theirs):
        return params
    if unet:
        kept = {kind: leaf for kind, leaf in theirs.items() if kind == "bias"}
        return params | {"condition": params["condition"] | {name: ours | kept}}
    table = ours["table"]
    if theirs:
        null = table.at[-1].set(theirs["table"][-1])
        table = jax.device_put(null, table.sharding)  # keep the sharding
    return params | {name: {"table": table}}
