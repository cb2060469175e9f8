"""Conversion of SiT's weights to cdt's direction of time (SiT: Ma et al. 2024, arXiv 2401.08740).

In SiT t = 0 is noise and t = 1 is data; in cdt it is the opposite. The velocities have
opposite directions: v(x, t) = -v_SiT(x, 1 - t). The published networks of SiT also have output
channels for a variance, which SiT does not use.
"""

from typing import Any

import jax
import numpy as np

from cdt.models.conditioning import FREQUENCY_DIM, MAX_PERIOD

PyTree = Any


def mean_channels(array: np.ndarray, channels: int) -> np.ndarray:
    """Return the part of a last layer that predicts the mean, without that of the variance.

    Args:
      array: [p p 2C, ...].
      channels: C.

    Returns:
      [p p C, ...].
    """
    both = array.reshape(-1, 2 * channels, *array.shape[1:])
    return both[:, :channels].reshape(-1, *array.shape[1:])


def reversed_time(params: PyTree) -> PyTree:
    """Return the parameters of a DiT for the other direction of time.

    The output of the result at (x, t) is minus the output of `params` at (x, 1 - t). Applied twice,
    this is the identity. Both hold up to rounding.

    cos((1 - t) w) = cos w cos tw + sin w sin tw and sin((1 - t) w) = sin w cos tw - cos w sin tw,
    both linear in the features of t. The first layer after the features absorbs this linear map.

    Args:
      params: tree of f32 arrays.
    """
    half = FREQUENCY_DIM // 2
    w = MAX_PERIOD ** (-np.arange(half) / half)[:, None]
    kernel = np.asarray(params["time_embed"]["in"]["kernel"], np.float64)
    of_cos, of_sin = kernel[:half], kernel[half:]
    kernel = np.concatenate(
        [np.cos(w) * of_cos + np.sin(w) * of_sin, np.sin(w) * of_cos - np.cos(w) * of_sin]
    )
    time_embed = params["time_embed"]
    embedder = time_embed | {"in": time_embed["in"] | {"kernel": kernel.astype(np.float32)}}
    return params | {"time_embed": embedder, "final": jax.tree.map(np.negative, params["final"])}
