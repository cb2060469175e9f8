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
    """Outputs of a feature network for n images; None if the space has no such output.

    Attributes:
      features: [n, d].
      spatial: [n, d'], before pooling: the features of the sFID.
      logits: [n, classes], for the Inception Score.
    """

    features: A
    spatial: A | None = None
    logits: A | None = None


FeatureFn = Callable[[np.ndarray], Activations[np.ndarray]]  # uint8[n, H, W, C] -> float64


def pixels(images: np.ndarray) -> Activations[np.ndarray]:
    """Return the pixels themselves as features.

    Use them for images as small as 8x8 only. For larger ones use the features of a trained network.

    Args:
      images: uint8[n, H, W, C].

    Returns:
      Activations with features float64[n, H * W * C] in [-1, 1].
    """
    return Activations(images.reshape(len(images), -1) / 127.5 - 1.0)


def in_batches(
    network: Callable[[Any, jax.Array], Any], params: Any, name: str, batch_size: int
) -> Callable[[np.ndarray], Any]:
    """Return a function that runs a network on any number of images, on all local devices.

    Args:
      network: (params, uint8[B, H, W, 3]) -> array or tree of arrays [B, ...]. The result of an
        image must depend on that image only.
      params: tree of arrays; copied to every device.
      name: `__name__` of the returned function.
      batch_size: images at a time, rounded up to a multiple of the number of devices. The last
        batch is padded, so images of one size need one compilation.

    Returns:
      a function from uint8[n, H, W, C], C = 3 or 1 (grey, repeated), to the output of the network
      in float64. It raises ValueError for another dtype or shape.
    """
    mesh = Mesh(np.array(jax.local_devices()), ("batch",))
    sharded = NamedSharding(mesh, PartitionSpec("batch"))
    params = jax.device_put(params, NamedSharding(mesh, PartitionSpec()))
    size = -(-batch_size // mesh.size) * mesh.size
    program = jax.jit(network)

    def features(images: np.ndarray) -> Any:
        if images.dtype != np.uint8 or images.ndim != 4 or images.shape[-1] not in (1, 3):
            raise ValueError(
                f"The images are {images.dtype} {list(images.shape)}; features need uint8 "
                "[n, H, W, 1 or 3]."
            )
        outputs = []
        for start in range(0, max(len(images), 1), size):  # without images run once, for the shape
            block = images[start : start + size]
            padded = np.zeros((size, *images.shape[1:3], 3), np.uint8)
            padded[: len(block)] = block
            outputs.append(jax.device_get(program(params, jax.device_put(padded, sharded))))
        return jax.tree.map(
            lambda *x: np.concatenate(x)[: len(images)].astype(np.float64), *outputs
        )

    features.__name__ = name
    return features
