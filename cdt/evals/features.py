"""Feature spaces in which sets of images are compared.

A feature function maps uint8[n, H, W, C] to float64[n, d]. Its `__name__` names the space in
reports and in the key of cached reference statistics.
"""

import numpy as np


def pixels(images: np.ndarray) -> np.ndarray:
    """The pixels themselves: uint8[n, H, W, C] in 0..255 -> float64[n, H * W * C] in [-1, 1].

    Meaningful for images as small as 8x8; larger ones want the features of a trained network.
    """
    return images.reshape(len(images), -1) / 127.5 - 1.0
