"""What the network is told beside the image: the noise level and the class."""

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
    """Sinusoidal features of the network's time input, [cos, sin].

    Feature i of each half is cos or sin of time * max_period^(-i / (dim / 2)).

    Args:
        time: float [B]; any real number (DDPM: 0..T-1, EDM: ln(sigma)/4, flow: [0, 1]).
        dim: number of features, even.
        max_period: the longest period, over 2 pi, in units of `time`.

    Returns:
        float32 [B, dim] in [-1, 1].

    Source: Ho et al. 2020 (arXiv 2006.11239), in the order of Peebles & Xie 2023
    (arXiv 2212.09748).
    """
    half = dim // 2
    frequencies = np.exp(-math.log(max_period) * np.arange(half, dtype=np.float64) / half)
    angles = time.astype(jnp.float32)[:, None] * jnp.asarray(frequencies, jnp.float32)
    return jnp.concatenate([jnp.cos(angles), jnp.sin(angles)], axis=-1)


def augment_embed(
    labels: jax.Array, features: int, kernel_init: nn.initializers.Initializer, dtype: DTypeLike
) -> jax.Array:
    """What was done to images, float [B, L] -> [B, features], in the module that is being called.

    Without a bias: zeros, of images as they were, add nothing (Karras et al. 2022, appendix F.2).
    """
    layer = nn.Dense(features, use_bias=False, kernel_init=kernel_init, name="augment_embed")
    return layer(labels.astype(jnp.float32)).astype(dtype)


def check_label(label: jax.Array | None, num_classes: int | None, network: str) -> None:
    """Raise ValueError unless a label is given if and only if the network has classes."""
    if (label is None) != (num_classes is None):
        given = "no label" if label is None else "a label"
        raise ValueError(f"{given} was given to a {network} with num_classes={num_classes}.")


class TimestepEmbedder(nn.Module):
    """Sinusoidal features through a two-layer SiLU MLP: time [B] -> [B, hidden_size]."""

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
    """Class table with one row more for the null class: label int32 [B] -> [B, hidden_size].

    Labels are 0..num_classes, where num_classes is the null id of classifier-free guidance
    (Ho & Salimans 2022, arXiv 2207.12598). A label outside that range embeds to zero. Dropping
    labels in training is the caller's work.
    """

    num_classes: int
    hidden_size: int
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, label: jax.Array) -> jax.Array:
        rows = self.num_classes + 1
        table = self.param("table", _NORMAL_002, (rows, self.hidden_size), jnp.float32)
        # A product with one-hot rows, not a gather: the gradient of a gather is a scatter-add,
        # whose order of summation a GPU does not fix. HIGHEST copies the row exactly.
        one_hot = jax.nn.one_hot(label, rows, dtype=jnp.float32)
        return jnp.dot(one_hot, table, precision=jax.lax.Precision.HIGHEST).astype(self.dtype)


def with_classes(fresh: dict[str, Any], params: dict[str, Any]) -> dict[str, Any]:
    """The parameters of a trained network, made to know another number of classes.

    Args:
        fresh: parameters of a new network, a DiT or a U-Net, with or without classes.
        params: of the trained one, which differs in its classes alone; it may know none.

    Returns:
        `params`, but where the numbers differ with the class embeddings of `fresh`. What the
        trained network adds for no class is kept: the last row of a DiT's table, the bias of
        DDPM++ (ADM adds nothing).
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
        table = jax.device_put(null, table.sharding)  # where the run has it
    return params | {name: {"table": table}}
