"""Atomic writes of files."""

import uuid

from etils import epath


def write(path: epath.PathLike, data: bytes | str) -> None:
    """Write or replace a local or `gs://` file atomically.

    The data are written to a temporary file in the same folder, which is then renamed. A reader
    never sees a partial file, and an interruption leaves none.

    Raises:
      OSError: the folder does not exist or cannot be written to; an existing file is unchanged.
    """
    path = epath.Path(path)
    partial = path.parent / f".{path.name}-{uuid.uuid4().hex}"
    try:
        partial.write_bytes(data.encode() if isinstance(data, str) else data)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
