"""Folders of image files, with class folders, with captions, or with neither.

    train/cats/1.png, train/dogs/a/2.jpg ...   each folder in `train` is a class
    train/1.png ...                            no classes
    train/captions.jsonl (or .csv)             one line for each image: {"file_name": "a/1.png",
                                               "caption": "a cat", "class": "cats"}; the caption
                                               may be a list, the class is optional

Examples are sorted by file name. Classes are numbered in the order of their names. Names that start
with a dot are ignored, and files without the ending of an image format.
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
    """Names, labels and captions of the image files in a folder; no file is opened."""

    root: str
    files: tuple[str, ...]  # N names relative to `root`, with "/" between folders
    labels: np.ndarray | None  # int32[N]; None without classes
    classes: tuple[str, ...] | None  # class names; a label is an index into them
    captions: tuple[tuple[str, ...], ...] | None  # N tuples of one or more captions

    def take(self, indices: np.ndarray) -> "Listing":
        """Return the listing of the examples `indices` int[n], with all classes."""
        return self._replace(
            files=tuple(self.files[i] for i in indices),
            labels=None if self.labels is None else self.labels[indices],
            captions=None if self.captions is None else tuple(self.captions[i] for i in indices),
        )


def folder(root: epath.PathLike, image_size: int, channels: int) -> Source:
    """Return a source of the image files in a local or `gs://` folder, decoded when read.

    Args:
      root: the folder.
      image_size: height and width of the decoded images in pixels.
      channels: 1 (grey) or 3 (RGB).

    Raises:
      UserError: see `list_images`.
      BadExample: when an image is read that is damaged or too small.
    """
    source = from_listing(list_images(root), image_size, channels)

    def images(indices: np.ndarray) -> np.ndarray:
        try:
            return source.images(indices)
        except BadExample as error:
            raise BadExample(
                f"{error}; replace or remove the file, or prepare the folder with "
                "`python -m cdt.data.prepare`, which can skip or enlarge such images"
            ) from error

    return source._replace(images=images)


def from_listing(
    listing: Listing, image_size: int, channels: int, *, upscale: bool = False
) -> Source:
    """Return a source of the listed image files, decoded by `cdt.data.pictures.decode`."""
    root = epath.Path(listing.root)
    # Pillow releases Python's global lock while it decodes and resizes, so threads help.
    pool = ThreadPoolExecutor(max_workers=os.cpu_count(), thread_name_prefix="decode")

    def image(index: int) -> np.ndarray:
        path = root / listing.files[index]
        try:
            return decode(path.read_bytes(), image_size, channels, upscale=upscale)
        except ValueError as error:
            raise BadExample(f"{path} {error}") from error
        except OSError as error:
            raise UserError(
                f"{path} cannot be read ({error}); fix the file system and run the same command "
                "again."
            ) from error

    def fingerprint() -> str:
        # Names and file sizes only: reading every file of a large data set would take hours.
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


def list_images(root: epath.PathLike) -> Listing:
    """List a local or `gs://` folder that has one of the three layouts above.

    Raises:
      UserError: the folder does not exist or has no images; images lie next to class folders; a
        class folder has no images; the captions cannot be read, or do not match the images.
    """
    root = epath.Path(root)
    if not root.is_dir():
        raise UserError(f"{root} does not exist; give the folder of the images.")
    files = tuple(_image_files(root, ""))
    if not files:
        endings = ", ".join(_ENDINGS)
        raise UserError(f"{root} contains no image files; their names must end in {endings}.")
    tables = [root / name for name in _CAPTIONS if (root / name).exists()]
    if len(tables) > 1:
        raise UserError(f"{root} contains {' and '.join(_CAPTIONS)}; remove one of them.")
    if tables:
        return _with_captions(root, files, tables[0])
    owners = [name.partition("/")[0] if "/" in name else None for name in files]
    classes = sorted({owner for owner in owners if owner is not None})
    if not classes:
        return Listing(os.fspath(root), files, None, None, None)
    if None in owners:
        raise UserError(
            f"{root} contains both images ({files[owners.index(None)]}, ...) and folders of images "
            f"({classes[0]}, ...); move every image into the folder of its class, or all images "
            "into one folder."
        )
    for name in sorted(_names(root)):
        if name not in classes and not name.startswith(".") and (root / name).is_dir():
            raise UserError(
                f"the class folder {root / name} contains no images; add images or remove it."
            )
    number = {name: label for label, name in enumerate(classes)}
    labels = np.array([number[owner] for owner in owners if owner is not None], np.int32)
    return Listing(os.fspath(root), files, labels, tuple(classes), None)


# For local files the functions of `os` are 30 times faster than epath, which needs minutes to list
# a data set like ImageNet.


def _is_local(path: epath.Path) -> bool:
    return "://" not in os.fspath(path)


def _names(path: epath.Path) -> list[str]:
    return os.listdir(path) if _is_local(path) else [inner.name for inner in path.iterdir()]


def _length(root: epath.Path, name: str) -> int:
    """Return the size of a file in bytes."""
    if _is_local(root):
        return os.stat(os.path.join(root, name)).st_size
    return (root / name).stat().length


def _image_files(root: epath.Path, prefix: str) -> Iterator[str]:
    """Yield the sorted names of the image files below root/prefix, relative to the root."""
    for name in sorted(_names(root / prefix)):
        if name.startswith("."):
            continue
        if name.lower().endswith(_ENDINGS):
            yield prefix + name
        elif (root / prefix / name).is_dir():
            yield from _image_files(root, f"{prefix}{name}/")


def _with_captions(root: epath.Path, files: tuple[str, ...], table: epath.Path) -> Listing:
    rows = {}
    for where, row in _rows(table):
        name, captions = row.get("file_name"), row.get("caption")
        if isinstance(captions, str):
            captions = [captions]
        texts = isinstance(captions, list) and all(isinstance(x, str) for x in captions)
        if not isinstance(name, str) or not captions or not texts:
            raise UserError(
                f"{where} of {table} lacks a file_name or a caption; both must be text, or in "
                "JSONL the caption a list of texts."
            )
        if name in rows:
            raise UserError(f"{table} has two lines for {name}; each image must have one line.")
        rows[name] = row | {"caption": tuple(captions)}
    missing = sorted(rows.keys() - set(files))
    if missing:
        raise UserError(
            f"{table} has captions for {len(missing)} images that are not in {root}, the first is "
            f"{missing[0]}; add the images or remove their lines."
        )
    without = [name for name in files if name not in rows]
    if without:
        raise UserError(
            f"{len(without)} images in {root} have no caption in {table.name}, the first is "
            f"{without[0]}; add captions or remove the images."
        )
    captions = tuple(rows[name]["caption"] for name in files)
    owners: list[Any] = [rows[name].get("class") for name in files]
    if all(owner is None for owner in owners):
        return Listing(os.fspath(root), files, None, None, captions)
    for name, owner in zip(files, owners, strict=True):
        if not isinstance(owner, str) or not owner:
            raise UserError(
                f"{table} gives no class for {name}; give a class for all images or for none."
            )
    classes = sorted(set(owners))
    number = {name: label for label, name in enumerate(classes)}
    labels = np.array([number[owner] for owner in owners], np.int32)
    return Listing(os.fspath(root), files, labels, tuple(classes), captions)


def _rows(table: epath.Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield ("line 3", the keys and values of that line) for every line of a caption file."""
    try:
        text = table.read_bytes().decode("utf-8-sig")  # spreadsheets write a byte order mark
    except UnicodeDecodeError as error:
        raise UserError(f"{table} is not UTF-8 text ({error}); save it as UTF-8.") from None
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
            raise UserError(
                f"line {number} of {table} is not a JSON object; every line must be one."
            )
        yield f"line {number}", entry
