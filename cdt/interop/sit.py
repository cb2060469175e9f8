"""SiT's conventions and ours (Ma et al. 2024, arXiv 2401.08740).

SiT's time runs from noise at 0 to data at 1, ours from data to noise, so its velocity points the
other way: v(x, t) = -v_SiT(x, 1 - t). Its published networks also have channels for a variance,
which nothing reads.
"""

from typing import Any

import jax
import numpy as np

from cdt.models.conditioning import FREQUENCY_DIM, MAX_PERIOD

PyTree = Any


def mean_channels(array: np.ndarray, channels: int) -> np.ndarray:
    """Return the mean's part [p p C, ...] of a last layer [p p 2C, ...] that also emits a variance;
    C is `channels`."""
    both = array.reshape(-1, 2 * channels, *array.shape[1:])
    return both[:, :channels].reshape(-1, *array.shape[1:])


def reversed_time(params: PyTree) -> PyTree:
    """A DiT's parameters f32 for the other direction of time: its output at (x, t) is minus that of
    `params` at (x, 1 - t), up to rounding.

    1 - t enters through cos((1 - t) w) = cos w cos tw + sin w sin tw and
    sin((1 - t) w) = sin w cos tw - cos w sin tw, which are linear in the features of t and so are
    absorbed by the first layer that reads them. Applied twice it changes nothing but the rounding.
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
