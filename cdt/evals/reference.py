"""Statistics of a data set in a feature space, computed once and cached by content."""

import hashlib
import io
import uuid
from collections.abc import Callable, Iterator

import numpy as np
from etils import epath

from cdt.data.sources import Source
from cdt.evals.frechet import Statistics, statistics

_BLOCK = 1000  # images at a time


def reference_statistics(
    source: Source,
    feature_fn: Callable[[np.ndarray], np.ndarray],
    cache_dir: epath.PathLike,
) -> tuple[Statistics, str]:
    """Statistics of every image of `source`, read from `cache_dir` if they are there.

    Args:
      source: the data set.
      feature_fn: uint8[n, H, W, C] -> float64[n, d]; its `__name__` is part of the cache key.
      cache_dir: created if absent; holds one `reference-<hash>.npz` (mu, sigma, n) per key.

    Returns:
      The statistics and the hash (hex) of (source fingerprint, feature name). A cached file that
      is damaged is computed anew and replaced.
    """
    key = hashlib.sha256(f"{source.fingerprint()} {feature_fn.__name__}".encode()).hexdigest()
    path = epath.Path(cache_dir) / f"reference-{key[:16]}.npz"
    cached = _read(path)
    if cached is None:
        cached = statistics(features_of(source, feature_fn))
        _write(path, cached)
    return cached, key


def features_of(
    source: Source, feature_fn: Callable[[np.ndarray], np.ndarray]
) -> Iterator[np.ndarray]:
    """Features float64[<= 1000, d] of the images of `source`, block after block in order."""
    for start in range(0, source.size, _BLOCK):
        yield feature_fn(source.images(np.arange(start, min(start + _BLOCK, source.size))))


def _read(path: epath.Path) -> Statistics | None:
    """The statistics in the file, or None if there is none or it is damaged."""
    if not path.exists():
        return None
    try:
        with np.load(io.BytesIO(path.read_bytes()), allow_pickle=False) as arrays:
            # Reading an array verifies its CRC-32 only if its header is whole.
            if arrays.zip.testzip() is not None:
                return None
            return Statistics(arrays["mu"], arrays["sigma"], int(arrays["n"]))
    except Exception:  # a parser given damaged bytes may raise anything
        return None


def _write(path: epath.Path, stats: Statistics) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    buffer = io.BytesIO()
    np.savez(buffer, mu=stats.mu, sigma=stats.sigma, n=stats.n)
    # Written beside and renamed, so that a reader never sees half a file.
    partial = path.parent / f".{path.name}-{uuid.uuid4().hex}"
    partial.write_bytes(buffer.getvalue())
    partial.replace(path)
