"""A folder of picture files: in class folders, or with captions, or neither.

    train/cats/1.png, train/dogs/a/2.jpg ...   each folder of `train` is a class
    train/1.png ...                            no classes
    train/captions.jsonl (or .csv)             a caption, or a list of them, and, if wanted, a class
                                               for each picture: {"file_name": "a/1.png",
                                               "caption": "a cat", "class": "cats"} a line

Examples are in the order of their files' names, classes are numbered in the order of theirs. What
starts with a dot is ignored, and so are files whose names do not end as those of pictures do.
"""

import csv
import hashlib
import io
import json
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import numpy as np
from etils import epath

from cdt.data.pictures import decode
from cdt.data.sources import BadExample, Source
from cdt.errors import UserError

_ENDINGS = (
    ".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp",
)  # fmt: skip
_CAPTIONS = ("captions.jsonl", "captions.csv")


class Listing(NamedTuple):
    """The pictures of a folder, not yet opened."""

    root: str
    files: tuple[str, ...]  # N names relative to `root`, with "/" between folders
    labels: np.ndarray | None  # int32[N], or None where there are no classes
    classes: tuple[str, ...] | None  # names by label
    captions: tuple[tuple[str, ...], ...] | None  # N, of each picture one or more

    def take(self, indices: np.ndarray) -> "Listing":
        """The listing of these examples alone, in this order; the classes stay all of them."""
        return self._replace(
            files=tuple(self.files[i] for i in indices),
            labels=None if self.labels is None else self.labels[indices],
            captions=None if self.captions is None else tuple(self.captions[i] for i in indices),
        )


def folder(root: epath.PathLike, image_size: int, channels: int) -> Source:
    """The pictures of a local or `gs://` folder, decoded as they are asked for.

    Raises:
      UserError: what `list_pictures` raises; a picture that cannot be used raises BadExample
        when it is asked for.
    """
    source = from_listing(list_pictures(root), image_size, channels)

    def images(indices: np.ndarray) -> np.ndarray:
        try:
            return source.images(indices)
        except BadExample as error:
            raise BadExample(
                f"{error}; replace or remove it, or prepare the folder with "
                "`python -m cdt.data.prepare`, which can skip or enlarge such pictures"
            ) from error

    return source._replace(images=images)


def from_listing(
    listing: Listing, image_size: int, channels: int, *, upscale: bool = False
) -> Source:
    """A source of listed pictures, each brought to its form by `cdt.data.pictures.decode`."""
    root = epath.Path(listing.root)
    # Pillow decodes and resizes without holding Python's lock. Threads start when needed.
    pool = ThreadPoolExecutor(max_workers=os.cpu_count(), thread_name_prefix="decode")

    def image(index: int) -> np.ndarray:
        path = root / listing.files[index]
        try:
            return decode(path.read_bytes(), image_size, channels, upscale=upscale)
        except ValueError as error:
            raise BadExample(f"{path} {error}") from error
        except OSError as error:
            raise UserError(
                f"{path} cannot be read ({error}); run the same command again"
            ) from error

    def fingerprint() -> str:
        # Names and lengths: to read every file of a large set would take hours.
        digest = hashlib.sha256(json.dumps([listing.classes, image_size, channels]).encode())
        for index, name in enumerate(listing.files):
            label = None if listing.labels is None else int(listing.labels[index])
            caption = None if listing.captions is None else listing.captions[index]
            length = _length(root, name)
            digest.update(json.dumps([name, length, label, caption]).encode())
        return digest.hexdigest()

    captions = listing.captions
    return Source(
        name="/".join(root.parts[-2:]),
        images=lambda indices: np.stack(list(pool.map(image, indices))),
        labels=listing.labels,
        num_classes=None if listing.classes is None else len(listing.classes),
        shape=(image_size, image_size, channels),
        size=len(listing.files),
        fingerprint=fingerprint,
        classes=listing.classes,
        captions=None if captions is None else lambda indices: [captions[i] for i in indices],
    )


def list_pictures(root: epath.PathLike) -> Listing:
    """List a local or `gs://` folder in one of the three forms above.

    Raises:
      UserError: no such folder, no picture in it, pictures beside class folders, a class folder
        without pictures, captions that cannot be read, captions without pictures or the reverse.
    """
    root = epath.Path(root)
    if not root.is_dir():
        raise UserError(f"there is no folder {root}: give the folder that holds the pictures")
    files = tuple(_pictures(root, ""))
    if not files:
        raise UserError(f"{root} holds no picture; their names end with one of {_ENDINGS}")
    tables = [root / name for name in _CAPTIONS if (root / name).exists()]
    if len(tables) > 1:
        raise UserError(f"{root} holds both {' and '.join(_CAPTIONS)}: keep one of them")
    if tables:
        return _with_captions(root, files, tables[0])
    owners = [name.partition("/")[0] if "/" in name else None for name in files]
    classes = sorted({owner for owner in owners if owner is not None})
    if not classes:
        return Listing(os.fspath(root), files, None, None, None)
    if None in owners:
        raise UserError(
            f"{root} holds pictures ({files[owners.index(None)]}, ...) beside folders of pictures "
            f"({classes[0]}, ...): put every picture into the folder of its class, or all into one"
        )
    for name in sorted(_names(root)):
        if name not in classes and not name.startswith(".") and (root / name).is_dir():
            raise UserError(f"the class folder {root / name} holds no picture: fill or remove it")
    number = {name: label for label, name in enumerate(classes)}
    labels = np.array([number[owner] for owner in owners if owner is not None], np.int32)
    return Listing(os.fspath(root), files, labels, tuple(classes), None)


# For local files the system's own calls are 30 times as fast as epath, which spends minutes on a
# set like ImageNet.


def _is_local(path: epath.Path) -> bool:
    return "://" not in os.fspath(path)


def _names(path: epath.Path) -> list[str]:
    return os.listdir(path) if _is_local(path) else [inner.name for inner in path.iterdir()]


def _length(root: epath.Path, name: str) -> int:
    """Bytes of a file."""
    if _is_local(root):
        return os.stat(os.path.join(root, name)).st_size
    return (root / name).stat().length


def _pictures(root: epath.Path, prefix: str) -> Iterator[str]:
    """Sorted names of the pictures below root/prefix, relative to the root."""
    for name in sorted(_names(root / prefix)):
        if name.startswith("."):
            continue
        if name.lower().endswith(_ENDINGS):
            yield prefix + name
        elif (root / prefix / name).is_dir():
            yield from _pictures(root, f"{prefix}{name}/")


def _with_captions(root: epath.Path, files: tuple[str, ...], table: epath.Path) -> Listing:
    rows = {}
    for where, row in _rows(table):
        name, captions = row.get("file_name"), row.get("caption")
        if isinstance(captions, str):
            captions = [captions]
        texts = isinstance(captions, list) and all(isinstance(x, str) for x in captions)
        if not isinstance(name, str) or not captions or not texts:
            raise UserError(
                f"{where} of {table} lacks a file_name or a caption: give both as text; in JSONL "
                "several captions are a list"
            )
        if name in rows:
            raise UserError(f"{table} names {name} twice: give each picture one line")
        rows[name] = row | {"caption": tuple(captions)}
    missing = sorted(rows.keys() - set(files))
    if missing:
        raise UserError(
            f"{table} has captions of {len(missing)} pictures that are not in {root}, the first "
            f"{missing[0]}: add the pictures or remove the captions"
        )
    without = [name for name in files if name not in rows]
    if without:
        raise UserError(
            f"{len(without)} pictures of {root} have no caption in {table.name}, the first "
            f"{without[0]}: add captions or remove the pictures"
        )
    captions = tuple(rows[name]["caption"] for name in files)
    owners: list[Any] = [rows[name].get("class") for name in files]
    if all(owner is None for owner in owners):
        return Listing(os.fspath(root), files, None, None, captions)
    for name, owner in zip(files, owners, strict=True):
        if not isinstance(owner, str) or not owner:
            raise UserError(f"{table} gives {name} no class: name the class of all or of none")
    classes = sorted(set(owners))
    number = {name: label for label, name in enumerate(classes)}
    labels = np.array([number[owner] for owner in owners], np.int32)
    return Listing(os.fspath(root), files, labels, tuple(classes), captions)


def _rows(table: epath.Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """("line 3", its keys and values), line by line."""
    try:
        text = table.read_bytes().decode("utf-8-sig")  # spreadsheets like to mark UTF-8
    except UnicodeDecodeError as error:
        raise UserError(f"{table} is no UTF-8 text ({error}): save it as UTF-8") from None
    if table.suffix == ".csv":
        reader = csv.DictReader(io.StringIO(text, newline=""))
        for row in reader:
            yield f"line {reader.line_num}", row
        return
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        try:
            entry = json.loads(line)
        except ValueError:
            entry = None
        if not isinstance(entry, dict):
            raise UserError(f"line {number} of {table} is no JSON object: give one a line")
        yield f"line {number}", entry
