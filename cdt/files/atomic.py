"""Files that are seen whole or not at all."""

import uuid

from etils import epath


def write(path: epath.PathLike, data: bytes | str) -> None:
    """Write a local or `gs://` file so that a reader, or a stop half-way, never leaves half of it.

    It is written beside its place and renamed; what lay there before is replaced.

    Raises:
      OSError: the folder does not exist or cannot be written to; the older file is untouched.
    """
    path = epath.Path(path)
    partial = path.parent / f".{path.name}-{uuid.uuid4().hex}"
    try:
        partial.write_bytes(data.encode() if isinstance(data, str) else data)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
