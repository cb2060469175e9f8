"""Networks with published weights: their file, their layers, and batches of images through them.

These networks are only ever applied, so each is a function of a flat dictionary of layers, batch
normalisation folded into the convolution before it.
"""

import hashlib
import http.client
import shutil
import urllib.request
import uuid
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np
from etils import epath
from jax.sharding import Mesh, NamedSharding, PartitionSpec

_TIMEOUT = 60  # seconds without a byte


class WeightFile(NamedTuple):
    """A published file of weights."""

    name: str  # in the cache
    url: str
    sha256: str  # hex


class Layer(NamedTuple):
    """A convolution with a bias."""

    kernel: np.ndarray  # float32[height, width, in, out]; in = 1 if each channel has its own
    bias: np.ndarray  # float32[out]


def locate(
    file: WeightFile,
    path: epath.PathLike | None = None,
    cache_dir: epath.PathLike = "~/.cache/cdt",
) -> epath.Path:
    """Where the weights are, downloaded to `cache_dir` first if they are nowhere.

    Args:
      file: what is looked for.
      path: a copy to use instead of the cached one.
      cache_dir: created if absent; holds files under their own names.

    Returns:
      The path of a file whose SHA-256 has been verified.

    Raises:
      ValueError: a sentence that says where the file comes from and where it belongs, if it is
        absent and cannot be downloaded or its content is not what was published.
    """
    cached = epath.Path(cache_dir).expanduser() / file.name
    found = cached if path is None else epath.Path(path).expanduser()
    if not found.exists():
        if path is not None:
            raise ValueError(
                f"{found} does not exist; {file.name} can be downloaded from {file.url}."
            )
        _download(file, cached)
    elif (digest := _sha256(found)) != file.sha256:
        raise ValueError(
            f"{found} has SHA-256 {digest} and not {file.sha256}: it is damaged or another file;"
            f" replace it by {file.name} from {file.url}."
        )
    return found


def _download(file: WeightFile, to: epath.Path) -> None:
    to.parent.mkdir(parents=True, exist_ok=True)
    # Verified beside its place and then renamed, so that no reader sees half a file.
    partial = to.parent / f".{to.name}-{uuid.uuid4().hex}"
    try:
        with urllib.request.urlopen(file.url, timeout=_TIMEOUT) as answer:
            with partial.open("wb") as stream:
                shutil.copyfileobj(answer, stream)
        if (digest := _sha256(partial)) != file.sha256:
            raise ValueError(
                f"{file.url} answered with a file of SHA-256 {digest} and not {file.sha256}:"
                f" download {file.name} by other means and place it at {to}."
            )
        partial.replace(to)
    except (OSError, http.client.HTTPException) as error:
        raise ValueError(
            f"{file.name} could not be downloaded ({error}): fetch {file.url} where there is a"
            f" network and place it at {to}."
        ) from error
    finally:
        partial.unlink(missing_ok=True)


def _sha256(path: epath.Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def fold_batch_norm(
    state: Mapping[str, np.ndarray], convolution: str, norm: str, epsilon: float
) -> Layer:
    """A convolution without bias and the batch normalisation after it, as one layer.

    Args:
      state: a PyTorch state dict.
      convolution: prefix of the names of nn.Conv2d, whose weight is [out, in / groups, h, w].
      norm: prefix of the names of nn.BatchNorm2d, applied with its running statistics.
      epsilon: what the normalisation adds to the variance.

    Raises:
      ValueError: if the state dict lacks one of the arrays.
    """
    names = [f"{convolution}.weight"]
    names += [f"{norm}.{part}" for part in ("weight", "bias", "running_mean", "running_var")]
    if missing := [name for name in names if name not in state]:
        raise ValueError(f"the weights lack {', '.join(missing)}: they are of another network.")
    weight, gain, shift, mean, variance = (state[name].astype(np.float64) for name in names)
    scale = gain / np.sqrt(variance + epsilon)
    kernel = weight.transpose(2, 3, 1, 0) * scale
    return Layer(kernel.astype(np.float32), (shift - mean * scale).astype(np.float32))


def convolve(layer: Layer, x: jax.Array, stride: int = 1, padding: str = "SAME") -> jax.Array:
    """Convolution of x [B, H, W, C] in TensorFlow's convention of padding, plus the bias.

    Computed in full float32: the faster default of accelerators would make features depend on the
    device.
    """
    product = jax.lax.conv_general_dilated(
        x,
        layer.kernel,
        (stride, stride),
        padding,
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        precision=jax.lax.Precision.HIGHEST,
    )
    return product + layer.bias


def in_batches(
    network: Callable[[Any, jax.Array], Any], params: Any, name: str, batch_size: int
) -> Callable[[np.ndarray], Any]:
    """Runs a network on any number of images, over all devices of this process.

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
