"""Feature spaces in which sets of images are compared.

A feature function maps uint8[n, H, W, C] to `Activations` in float64. Its `__name__` names the
space in reports and in the key of cached reference statistics.
"""

from collections.abc import Callable
from typing import Any, Generic, NamedTuple, TypeVar

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

A = TypeVar("A", np.ndarray, jax.Array)


class Activations(NamedTuple, Generic[A]):
    """What a network sees in n images; None where a space has no such thing."""

    features: A  # [n, d]
    spatial: A | None = None  # [n, d'], before pooling: the features of the sFID
    logits: A | None = None  # [n, classes], of the Inception Score


FeatureFn = Callable[[np.ndarray], Activations[np.ndarray]]  # uint8[n, H, W, C] -> float64


def pixels(images: np.ndarray) -> Activations[np.ndarray]:
    """The pixels themselves: uint8[n, H, W, C] in 0..255 -> features
    float64[n, H * W * C] in [-1, 1].

    Meaningful for images as small as 8x8; larger ones want the features of a trained network.
    """
    return Activations(images.reshape(len(images), -1) / 127.5 - 1.0)


def in_batches(
    network: Callable[[Any, jax.Array], Any], params: Any, name: str, batch_size: int
) -> Callable[[np.ndarray], Any]:
    """Run a network on any number of images, over all devices of this process.

    Args:
      network: (params, uint8[B, H, W, 3]) -> array or tree of arrays [B, ...]; each image's result
        must depend on that image alone.
      params: tree of arrays; copied to every device.
      name: `__name__` of the result.
      batch_size: images at a time, rounded up to a multiple of the number of devices. The last
        batch is padded, so that one program serves every call with images of one size.

    Returns:
      A function from uint8[n, H, W, C] in 0..255, C = 3 or 1 (grey, repeated), to the network's
      output on these images in float64. It raises a ValueError for images of another type or shape.
    """
    mesh = Mesh(np.array(jax.local_devices()), ("batch",))
    sharded = NamedSharding(mesh, PartitionSpec("batch"))
    params = jax.device_put(params, NamedSharding(mesh, PartitionSpec()))
    size = -(-batch_size // mesh.size) * mesh.size
    program = jax.jit(network)

    def features(images: np.ndarray) -> Any:
        if images.dtype != np.uint8 or images.ndim != 4 or images.shape[-1] not in (1, 3):
            raise ValueError(
                "features are of uint8 images [n, H, W, 1 or 3],"
                f" not of {images.dtype} {list(images.shape)}"
            )
        outputs = []
        for start in range(0, max(len(images), 1), size):  # once even without images, for the shape
            block = images[start : start + size]
            padded = np.zeros((size, *images.shape[1:3], 3), np.uint8)
            padded[: len(block)] = block
            outputs.append(jax.device_get(program(params, jax.device_put(padded, sharded))))
        return jax.tree.map(
            lambda *x: np.concatenate(x)[: len(images)].astype(np.float64), *outputs
        )

    features.__name__ = name
    return features
