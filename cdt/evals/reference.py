"""References that samples are compared with: statistics of a data set or of a file.

Those of a data set are computed once and cached under a hash of its content. Files have ADM's form.
"""

import hashlib
import io
from typing import NamedTuple

import numpy as np
from etils import epath
from numpy.typing import ArrayLike

from cdt.data.sources import Source
from cdt.evals.features import FeatureFn
from cdt.evals.frechet import Statistics
from cdt.evals.images import read_images
from cdt.evals.summary import Summary, in_blocks, summarise
from cdt.files import atomic
from cdt.files.npz import open_npz

_BLOCK = 1000  # images at a time
# Images whose features are kept for KID, precision, recall and neighbours, as many as in ADM's
# protocol.
_KEPT = 10_000


class Reference(NamedTuple):
    """A reference set in one feature space.

    Attributes:
      name: of the data set or file.
      hash: hex SHA-256 of (content, feature space).
      summary: of all images; it keeps the features of at most 10,000, evenly spaced.
    """

    name: str
    hash: str
    summary: Summary


def source_reference(source: Source, feature_fn: FeatureFn, cache_dir: epath.PathLike) -> Reference:
    """Return the reference of all images of a data set, from the cache if it is there.

    A damaged cache file is replaced.

    Args:
      source: the data set.
      feature_fn: see `features`; its `__name__` is part of the cache key.
      cache_dir: created if missing. It holds one `reference-<hash>.npz` per key, in ADM's form (mu,
        sigma, mu_s, sigma_s) together with n, the kept features and the name of their space.
    """
    key = _hash(f"{source.fingerprint()} {feature_fn.__name__}".encode())
    path = epath.Path(cache_dir) / f"reference-{key[:16]}.npz"
    found = _read_cached(path)
    if found is None:
        every = max(1, -(-source.size // _KEPT))
        blocks = (
            source.images(np.arange(start, min(start + _BLOCK, source.size)))
            for start in range(0, source.size, _BLOCK)
        )
        found = summarise(blocks, feature_fn, lambda numbers: numbers % every == 0)
        _write(path, found, feature_fn.__name__)
    return Reference(source.name, key, found)


def file_reference(path: epath.PathLike, feature_fn: FeatureFn) -> Reference:
    """Read a reference from a file or folder.

    Args:
      path: an npz with `mu` and `sigma` (ADM's also has `mu_s` and `sigma_s`), an npz with images
        `arr_0`, or a folder of images. From an npz with both, the statistics are `mu` and `sigma`,
        which may come from more images, and the features are those of its images.
      feature_fn: the feature space of the statistics.

    Raises:
      ValueError: nothing can be read, an array has a wrong shape, or the file names another feature
        space.
    """
    path = epath.Path(path)
    if not path.is_dir() and path.exists():
        data = path.read_bytes()
        arrays = _arrays(data)
        if arrays is not None and "mu" in arrays and "sigma" in arrays:
            space = str(arrays.get("space", feature_fn.__name__))  # other programs do not save it
            if space != feature_fn.__name__:
                raise ValueError(
                    f"{path} has statistics of the features '{space}'; give a file for the "
                    f"features '{feature_fn.__name__}'."
                )
            own = None
            if "arr_0" in arrays:
                own = summarise(in_blocks(read_images(path)), feature_fn)
            n = int(arrays.get("n", 0))
            summary = Summary(
                _statistics(path, arrays["mu"], arrays["sigma"], n),
                _statistics(path, arrays["mu_s"], arrays["sigma_s"], n)
                if "mu_s" in arrays
                else None,
                arrays.get("features", None if own is None else own.features),
                None,
            )
            return Reference(path.name, _hash(data + feature_fn.__name__.encode()), summary)
    images = read_images(path)
    key = _hash(images.tobytes() + feature_fn.__name__.encode())
    return Reference(path.name, key, summarise(in_blocks(images), feature_fn))


def _statistics(path: epath.Path, mu: np.ndarray, sigma: np.ndarray, n: int) -> Statistics:
    if mu.ndim != 1 or sigma.shape != (len(mu), len(mu)):
        raise ValueError(
            f"{path} has mu {list(mu.shape)} and sigma {list(sigma.shape)}; their shapes must be "
            "[d] and [d, d]."
        )
    return Statistics(mu.astype(np.float64), sigma.astype(np.float64), n)


def _hash(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _arrays(data: bytes) -> dict[str, np.ndarray] | None:
    """Return the arrays of an npz; None if it is damaged or no npz."""
    try:
        with open_npz(io.BytesIO(data)) as arrays:
            # Reading an array verifies its CRC-32 only if its header is undamaged.
            if arrays.zip is None or arrays.zip.testzip() is not None:
                return None
            return {name: arrays[name] for name in arrays.files}
    except Exception:  # a parser may raise anything for damaged bytes
        return None


def _read_cached(path: epath.Path) -> Summary | None:
    """Return the summary in a cache file; None if it is missing or damaged."""
    arrays = _arrays(path.read_bytes()) if path.exists() else None
    if arrays is None:
        return None
    try:
        n = int(arrays["n"])
        spatial = None
        if "mu_s" in arrays:
            spatial = Statistics(arrays["mu_s"], arrays["sigma_s"], n)
        own = Statistics(arrays["mu"], arrays["sigma"], n)
        return Summary(own, spatial, arrays["features"], None)
    except (TypeError, KeyError, ValueError):
        return None


def _write(path: epath.Path, summary: Summary, space: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    arrays: dict[str, ArrayLike] = dict(
        mu=summary.statistics.mu,
        sigma=summary.statistics.sigma,
        n=summary.statistics.n,
        space=space,
    )
    if summary.features is not None:
        arrays["features"] = summary.features
    if summary.spatial is not None:
        arrays |= dict(mu_s=summary.spatial.mu, sigma_s=summary.spatial.sigma)
    buffer = io.BytesIO()
    np.savez(buffer, allow_pickle=False, **arrays)
    atomic.write(path, buffer.getvalue())
