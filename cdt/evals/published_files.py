"""Files of published weights: found, downloaded, verified."""

import hashlib
import http.client
import shutil
import urllib.request
import uuid
from typing import NamedTuple

from etils import epath

_TIMEOUT = 60  # seconds without a byte


class WeightFile(NamedTuple):
    """A published file of weights."""

    name: str  # in the cache
    url: str
    sha256: str  # hex


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
