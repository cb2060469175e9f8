"""Layers of the feature networks: convolutions with batch normalisation folded into them.

These networks are never trained, so each is a function of a flat dictionary of layers.
"""

from collections.abc import Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np


class Layer(NamedTuple):
    """A convolution with a bias.

    Attributes:
      kernel: float32[height, width, in, out]; in = 1 if each channel has its own kernel.
      bias: float32[out].
    """

    kernel: np.ndarray
    bias: np.ndarray


def fold_batch_norm(
    state: Mapping[str, np.ndarray], convolution: str, norm: str, epsilon: float
) -> Layer:
    """Return a convolution without bias and the batch normalisation after it as one layer.

    Args:
      state: a PyTorch state dict.
      convolution: prefix of the names of nn.Conv2d, whose weight is [out, in / groups, h, w].
      norm: prefix of the names of nn.BatchNorm2d, applied with its running statistics.
      epsilon: added to the variance by the normalisation.

    Raises:
      ValueError: the state dict lacks one of the arrays.
    """
    names = [f"{convolution}.weight"]
    names += [f"{norm}.{part}" for part in ("weight", "bias", "running_mean", "running_var")]
    if missing := [name for name in names if name not in state]:
        raise ValueError(
            f"The weights lack {', '.join(missing)}; give the published weights of this network."
        )
    weight, gain, shift, mean, variance = (state[name].astype(np.float64) for name in names)
    scale = gain / np.sqrt(variance + epsilon)
    kernel = weight.transpose(2, 3, 1, 0) * scale
    return Layer(kernel.astype(np.float32), (shift - mean * scale).astype(np.float32))


def convolve(layer: Layer, x: jax.Array, stride: int = 1, padding: str = "SAME") -> jax.Array:
    """Convolve x [B, H, W, C] and add the bias; padding is TensorFlow's.

    The precision is full float32. With the faster default of accelerators features would depend on
    the device.
    """
    product = jax.lax.conv_general_dilated(
        x,
        jnp.asarray(layer.kernel),
        (stride, stride),
        padding,
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        precision=jax.lax.Precision.HIGHEST,
    )
    return product + layer.bias
