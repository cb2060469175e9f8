"""Files of published weights: finding, downloading and verifying them."""

import hashlib
import http.client
import shutil
import urllib.request
import uuid
from typing import NamedTuple

from etils import epath

_TIMEOUT = 60  # seconds without data


class WeightFile(NamedTuple):
    """A published file of weights.

    Attributes:
      name: of the file in the cache.
      url: where it is published.
      sha256: of its content, in hex.
    """

    name: str
    url: str
    sha256: str


def locate(
    file: WeightFile,
    path: epath.PathLike | None = None,
    cache_dir: epath.PathLike = "~/.cache/cdt",
) -> epath.Path:
    """Return the path of a file of weights; download it to `cache_dir` if it is missing.

    Args:
      file: the file to find.
      path: a copy to use instead of the cached one.
      cache_dir: created if missing; holds files under their own names.

    Returns:
      the path of a file whose SHA-256 is right.

    Raises:
      ValueError: the file is missing and cannot be downloaded, or is not the published one. The
        message names its URL and its place.
    """
    cached = epath.Path(cache_dir).expanduser() / file.name
    found = cached if path is None else epath.Path(path).expanduser()
    if not found.exists():
        if path is not None:
            raise ValueError(f"{found} does not exist; download {file.name} from {file.url}.")
        _download(file, cached)
    elif (digest := _sha256(found)) != file.sha256:
        raise ValueError(
            f"{found} has SHA-256 {digest} instead of {file.sha256}, so it is damaged or another "
            f"file; replace it with {file.name} from {file.url}."
        )
    return found


def _download(file: WeightFile, to: epath.Path) -> None:
    to.parent.mkdir(parents=True, exist_ok=True)
    # Verified under another name and then renamed, so that no reader sees a part of the file.
    partial = to.parent / f".{to.name}-{uuid.uuid4().hex}"
    try:
        with urllib.request.urlopen(file.url, timeout=_TIMEOUT) as answer:
            with partial.open("wb") as stream:
                shutil.copyfileobj(answer, stream)
        if (digest := _sha256(partial)) != file.sha256:
            raise ValueError(
                f"{file.url} returned a file with SHA-256 {digest} instead of {file.sha256}; "
                f"download {file.name} by other means and save it as {to}."
            )
        partial.replace(to)
    except (OSError, http.client.HTTPException) as error:
        raise ValueError(
            f"{file.name} could not be downloaded ({error}); download {file.url} on a machine with "
            f"internet access and save it as {to}."
        ) from error
    finally:
        partial.unlink(missing_ok=True)


def _sha256(path: epath.Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
