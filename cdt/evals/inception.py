"""The Inception-V3 of the FID: the network of TensorFlow's inception-2015-12-05 graph.

It differs from other Inception-V3s: average pooling leaves the padding out of the mean, the last
block uses maximum pooling, there are 1008 classes, and images are resized as in TensorFlow 1.

Source of the architecture: Szegedy et al. 2015 (arXiv 1512.00567). Source of its use: Heusel et al.
2017 (arXiv 1706.08500). The weights are those of the graph as PyTorch arrays, released by
pytorch-fid. torch-fidelity releases the same file under another name.
"""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath

from cdt.evals.features import Activations, FeatureFn, in_batches
from cdt.evals.folded_layers import Layer, convolve, fold_batch_norm
from cdt.evals.published_files import WeightFile, locate
from cdt.files.pytorch import read_state_dict

WEIGHTS = WeightFile(
    name="pt_inception-2015-12-05-6726825d.pth",
    url="https://github.com/mseitzer/pytorch-fid/releases/download/fid_weights/"
    "pt_inception-2015-12-05-6726825d.pth",
    # The file name has its first digits; snap-research/discoscene, inception_model.py has all.
    sha256="6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2",
)
_SIDE = 299
_EPSILON = 1e-3
_LAYERS = 94  # convolutions
_SPATIAL_CHANNELS = 7

Chain = Callable[..., jax.Array]  # (x, *names of layers)
Halve = Callable[[jax.Array, str], jax.Array]
Branches = Callable[[jax.Array, Chain, Halve], list[jax.Array]]


class Parameters(NamedTuple):
    """The weights of the network.

    Attributes:
      layers: the convolutions by their names in the file.
      logits: [2048, 1008], the kernel of the logits; their bias is not used.
    """

    layers: dict[str, Layer]
    logits: np.ndarray


def inception(path: epath.PathLike | None = None, batch_size: int = 64) -> FeatureFn:
    """Return the feature function of the network with its published weights.

    Args:
      path: file of the weights; None uses ~/.cache/cdt, where the file (96 MB) is downloaded if it
        is missing.
      batch_size: images at a time, see `in_batches`.

    Returns:
      a function uint8[n, H, W, C] -> Activations in float64, as in the ADM protocol. Features
      [n, 2048] are pool_3 of the graph, for FID, KID, precision and recall. Spatial features
      [n, 7 * 17 * 17] are the first 7 channels of mixed_6/conv, for the sFID. Logits [n, 1008] are
      without bias, for the Inception Score.

    Raises:
      ValueError: the file is missing and cannot be downloaded, or is not the published one.

    Source: Dhariwal & Nichol 2021, arXiv 2105.05233.
    """
    params = parameters(read_state_dict(locate(WEIGHTS, path)))
    return in_batches(network, params, "inception", batch_size)


def parameters(state: dict[str, np.ndarray]) -> Parameters:
    """Return the weights in the state dict of pytorch-fid's or torch-fidelity's Inception.

    Raises:
      ValueError: it is the state dict of another network.
    """
    suffix = ".conv.weight"
    names = [name.removesuffix(suffix) for name in state if name.endswith(suffix)]
    if len(names) != _LAYERS or "fc.weight" not in state:
        raise ValueError(
            "The weights are not those of the FID's Inception-V3; give the file of pytorch-fid."
        )
    layers = {
        name: fold_batch_norm(state, f"{name}.conv", f"{name}.bn", _EPSILON) for name in names
    }
    return Parameters(layers, state["fc.weight"].T)


def network(params: Parameters, images: jax.Array) -> Activations[jax.Array]:
    """Compute the activations, in float32, of images [B, H, W, 3] in 0..255 of any size."""

    def conv(x: jax.Array, name: str, stride: int = 1, padding: str = "SAME") -> jax.Array:
        return jax.nn.relu(convolve(params.layers[name], x, stride, padding))

    def block(kind: Branches, name: str, x: jax.Array) -> jax.Array:
        def chain(x: jax.Array, *layers: str) -> jax.Array:
            for layer in layers:
                x = conv(x, f"{name}.{layer}")
            return x

        def halve(x: jax.Array, layer: str) -> jax.Array:
            return conv(x, f"{name}.{layer}", 2, "VALID")

        return jnp.concatenate(kind(x, chain, halve), axis=-1)

    x = (_resize(images.astype(jnp.float32)) - 128) / 128
    x = conv(x, "Conv2d_1a_3x3", 2, "VALID")
    x = conv(x, "Conv2d_2a_3x3", 1, "VALID")
    x = conv(x, "Conv2d_2b_3x3")
    x = _max_pool(x, 2, "VALID")
    x = conv(x, "Conv2d_3b_1x1")
    x = conv(x, "Conv2d_4a_3x3", 1, "VALID")
    x = _max_pool(x, 2, "VALID")  # 35x35
    for name in ("Mixed_5b", "Mixed_5c", "Mixed_5d"):
        x = block(_branches_35, name, x)
    x = block(_branches_35_to_17, "Mixed_6a", x)
    for name in ("Mixed_6b", "Mixed_6c"):
        x = block(_branches_17, name, x)
    # mixed_6 of the graph is Mixed_6d here, and mixed_6/conv is its first branch.
    spatial = conv(x, "Mixed_6d.branch1x1")[..., :_SPATIAL_CHANNELS]
    for name in ("Mixed_6d", "Mixed_6e"):
        x = block(_branches_17, name, x)
    x = block(_branches_17_to_8, "Mixed_7a", x)
    x = block(partial(_branches_8, pool=_average_pool), "Mixed_7b", x)
    # The paper has average pooling here; the graph has maximum pooling.
    x = block(partial(_branches_8, pool=_max_pool), "Mixed_7c", x)
    pool = x.mean(axis=(1, 2))
    logits = jnp.dot(pool, params.logits, precision=jax.lax.Precision.HIGHEST)
    return Activations(pool, spatial.reshape(len(spatial), -1), logits)


# The branches of a block, in the order of their channels: `chain` applies convolutions of stride 1
# one after the other, `halve` one of stride 2.


def _branches_35(x: jax.Array, chain: Chain, halve: Halve) -> list[jax.Array]:
    return [
        chain(x, "branch1x1"),
        chain(x, "branch5x5_1", "branch5x5_2"),
        chain(x, "branch3x3dbl_1", "branch3x3dbl_2", "branch3x3dbl_3"),
        chain(_average_pool(x), "branch_pool"),
    ]


def _branches_35_to_17(x: jax.Array, chain: Chain, halve: Halve) -> list[jax.Array]:
    return [
        halve(x, "branch3x3"),
        halve(chain(x, "branch3x3dbl_1", "branch3x3dbl_2"), "branch3x3dbl_3"),
        _max_pool(x, 2, "VALID"),
    ]


def _branches_17(x: jax.Array, chain: Chain, halve: Halve) -> list[jax.Array]:
    return [
        chain(x, "branch1x1"),
        chain(x, *(f"branch7x7_{i}" for i in range(1, 4))),
        chain(x, *(f"branch7x7dbl_{i}" for i in range(1, 6))),
        chain(_average_pool(x), "branch_pool"),
    ]


def _branches_17_to_8(x: jax.Array, chain: Chain, halve: Halve) -> list[jax.Array]:
    return [
        halve(chain(x, "branch3x3_1"), "branch3x3_2"),
        halve(chain(x, *(f"branch7x7x3_{i}" for i in range(1, 4))), "branch7x7x3_4"),
        _max_pool(x, 2, "VALID"),
    ]


def _branches_8(
    x: jax.Array, chain: Chain, halve: Halve, pool: Callable[[jax.Array], jax.Array]
) -> list[jax.Array]:
    narrow = chain(x, "branch3x3_1")
    double = chain(x, "branch3x3dbl_1", "branch3x3dbl_2")
    return [
        chain(x, "branch1x1"),
        chain(narrow, "branch3x3_2a"),
        chain(narrow, "branch3x3_2b"),
        chain(double, "branch3x3dbl_3a"),
        chain(double, "branch3x3dbl_3b"),
        chain(pool(x), "branch_pool"),
    ]


def _max_pool(x: jax.Array, stride: int = 1, padding: str = "SAME") -> jax.Array:
    window, strides = (1, 3, 3, 1), (1, stride, stride, 1)
    return jax.lax.reduce_window(x, -jnp.inf, jax.lax.max, window, strides, padding)


def _average_pool(x: jax.Array) -> jax.Array:
    """Average over the pixels of each 3x3 window that lie inside the image."""

    def window_sum(values: jax.Array) -> jax.Array:
        return jax.lax.reduce_window(values, 0.0, jax.lax.add, (1, 3, 3, 1), (1, 1, 1, 1), "SAME")

    return window_sum(x) / window_sum(jnp.ones((1, *x.shape[1:3], 1), x.dtype))


def _resize(x: jax.Array) -> jax.Array:
    """Resize images [B, H, W, C] to 299x299 as ResizeBilinear of TensorFlow 1 does.

    Output pixel i is at input pixel i * H / 299: centres are not aligned, and there is no
    antialiasing.
    """
    for axis in (2, 1):
        length = x.shape[axis]
        position = np.arange(_SIDE, dtype=np.float32) * np.float32(length / _SIDE)
        low = np.minimum(position.astype(np.int32), length - 1)
        high = np.minimum(low + 1, length - 1)
        fraction = (position - low).reshape([-1 if i == axis else 1 for i in range(4)])
        below, above = jnp.take(x, low, axis), jnp.take(x, high, axis)
        x = below + (above - below) * fraction
    return x
