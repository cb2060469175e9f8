"""Prepared data sets: the format that `python -m cdt.data.prepare` writes, one folder a split.

    manifest.json       written last; a folder without it is not finished
    images.bin          form 'memmap': uint8[N, H, W, C], raw bytes
    images-00003-of-00016.array_record
                        form 'array_record': one record is one image, uint8[H, W, C]; the shards
                        are in the order of the examples
    labels.npy          int32[N]; absent without labels
    captions.jsonl      see cdt/data/captions.py; absent without captions

'memmap' is the fastest and must be on a local disk. 'array_record' may be in a bucket.
"""

import hashlib
import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from etils import epath

from cdt.data.captions import read_captions
from cdt.data.sources import BadExample, Source, read_records
from cdt.errors import UserError
from cdt.files.npz import read_npy

FORMS = ("memmap", "array_record")
WORK = ".prepare"  # folder for unfinished work, inside the folder of the split


class PreparedManifest(NamedTuple):
    """Content of manifest.json."""

    form: str  # one of FORMS
    count: int  # type: ignore[assignment]  # N; not tuple.count
    shape: tuple[int, int, int]  # (H, W, C)
    num_classes: int | None  # None: no labels
    classes: tuple[str, ...] | None  # class names; None: the classes have no names
    captions: bool  # True: there is a captions.jsonl
    shards: tuple[int, ...]  # images in each ArrayRecord shard; (N,) for a memmap
    sha256: str  # `content_hash`; independent of form, shards and workers
    skipped: tuple[str, ...]  # the reason for each skipped example
    settings: Mapping[str, Any]  # of the preparation: source, path, image_size, licence, ...
    version: int = 1  # of this format


def shard_name(number: int, count: int) -> str:
    return f"images-{number:05d}-of-{count:05d}.array_record"


def example_digest(image: np.ndarray, label: int | None, captions: Sequence[str] | None) -> bytes:
    """Return the SHA-256 of one example.

    It covers the uint8 image, the label as little-endian int32, and the captions as UTF-8 with a
    zero byte between them.
    """
    digest = hashlib.sha256(np.ascontiguousarray(image).data)
    digest.update(b"" if label is None else np.array(label, "<i4").tobytes())
    digest.update(b"" if captions is None else "\0".join(captions).encode())
    return digest.digest()


def content_hash(manifest: PreparedManifest, digests: Iterable[bytes]) -> str:
    """Return the SHA-256 (hex) of a data set: shape and classes, then the digests in order."""
    facts = [manifest.shape, manifest.num_classes, manifest.classes, manifest.captions]
    digest = hashlib.sha256(json.dumps(facts).encode())
    for example in digests:
        digest.update(example)
    return digest.hexdigest()


def read_manifest(folder: epath.PathLike) -> PreparedManifest:
    """Return the manifest of a prepared split.

    Raises:
      UserError: the folder has no prepared data set, an unfinished one, or a manifest that is
        damaged or of another version.
    """
    folder = epath.Path(folder)
    path = folder / "manifest.json"
    if not path.exists():
        if (folder / WORK).exists():
            raise UserError(
                f"the preparation of {folder} is not finished; run the same "
                "`python -m cdt.data.prepare` command again."
            )
        raise UserError(
            f"{folder} contains no prepared data set; run `python -m cdt.data.prepare "
            f"--source=SOURCE --path=PATH --out={folder.parent} --split={folder.name} "
            "--image_size=SIZE --channels=CHANNELS`."
        )
    try:
        found = json.loads(path.read_text())
        lists = {k: tuple(found[k]) for k in ("shape", "shards", "skipped")}
        classes = None if found["classes"] is None else tuple(found["classes"])
        manifest = PreparedManifest(**{**found, **lists, "classes": classes})
        height, width, channels = manifest.shape
        sound = manifest.form in FORMS and sum(manifest.shards) == manifest.count > 0
    except (OSError, ValueError, KeyError, TypeError):
        sound = False
    if not sound or manifest.version != PreparedManifest._field_defaults["version"]:
        raise UserError(
            f"{path} is damaged or of another version; remove {folder} and prepare it again."
        )
    return manifest


def prepared(folder: epath.PathLike) -> Source:
    """Return a source of a prepared split; images are read from the disk on demand.

    Args:
      folder: of one split, such as DIR/train; local, or with ArrayRecord also `gs://`.

    Raises:
      UserError: see `read_manifest`; a file is missing or has the wrong length; labels are out of
        range; or a memmap is in a bucket.
      BadExample: when a damaged record is read. Only `check` detects a flipped bit in a memmap.
    """
    folder = epath.Path(folder)
    manifest = read_manifest(folder)
    images = _memmap if manifest.form == "memmap" else _array_record
    captions = _captions(folder, manifest.count) if manifest.captions else None
    classes = manifest.num_classes
    return Source(
        name="/".join(folder.parts[-2:]),
        images=images(folder, manifest),
        labels=None if classes is None else _labels(folder, manifest.count, classes),
        num_classes=classes,
        shape=manifest.shape,
        size=manifest.count,
        fingerprint=lambda: manifest.sha256,
        classes=manifest.classes,
        captions=None if captions is None else lambda indices: [captions[i] for i in indices],
    )


def check(folder: epath.PathLike) -> PreparedManifest:
    """Read every example, compare the hash with the manifest's, and return the manifest.

    Raises:
      UserError: see `prepared`; or the hash differs.
    """
    source, manifest = prepared(folder), read_manifest(folder)

    def digests() -> Iterator[bytes]:
        for i in range(source.size):
            index = np.array([i])
            label = None if source.labels is None else source.labels[index][0]
            captions = None if source.captions is None else source.captions(index)[0]
            yield example_digest(source.images(index)[0], label, captions)

    if content_hash(manifest, digests()) != manifest.sha256:
        raise UserError(
            f"the examples in {folder} have changed since they were prepared (their hash differs "
            "from the manifest's); remove the folder and prepare it again."
        )
    return manifest


def _memmap(folder: epath.Path, manifest: PreparedManifest) -> Callable[[np.ndarray], np.ndarray]:
    if "://" in os.fspath(folder):
        raise UserError(
            f"{folder} has the form memmap, which cannot be read from a bucket; copy the folder to "
            "a local disk, or prepare it with --form=array_record."
        )
    path = folder / "images.bin"
    expected = manifest.count * int(np.prod(manifest.shape))
    length = path.stat().length if path.exists() else 0
    if length != expected:
        raise _damaged(path, f"has {length} bytes, not {expected}")
    mapped = np.memmap(path, np.uint8, mode="r", shape=(manifest.count, *manifest.shape))
    pixels = mapped.view(np.ndarray)  # the same memory; indexing an np.memmap is slower
    return lambda indices: pixels[indices]


class _Shard(NamedTuple):
    """A file of records as ArrayRecordDataSource accepts it without opening the file."""

    filename: str
    skip: int
    take: int
    examples_in_shard: int


def _array_record(
    folder: epath.Path, manifest: PreparedManifest
) -> Callable[[np.ndarray], np.ndarray]:
    from array_record.python.array_record_data_source import ArrayRecordDataSource

    shards = []
    for number, count in enumerate(manifest.shards):
        path = folder / shard_name(number, len(manifest.shards))
        if not path.exists():
            raise _damaged(path, "is missing")
        if count:
            shards.append(_Shard(os.fspath(path), 0, count, count))
    records, name = ArrayRecordDataSource(shards), os.fspath(folder)

    def images(indices: np.ndarray) -> np.ndarray:
        found = read_records(name, records, indices)
        result = np.empty((len(indices), *manifest.shape), np.uint8)
        for index, record, image in zip(indices, found, result, strict=True):
            if len(record) != image.size:
                raise BadExample(
                    f"example {index} of {name} has {len(record)} bytes, not {image.size}"
                )
            image[:] = np.frombuffer(record, np.uint8).reshape(manifest.shape)
        return result

    return images


def _labels(folder: epath.Path, count: int, num_classes: int) -> np.ndarray:
    path = folder / "labels.npy"
    try:
        labels = read_npy(path.read_bytes())
    except (OSError, ValueError) as error:
        raise _damaged(path, f"cannot be read ({error})") from error
    if labels.dtype != np.int32 or labels.shape != (count,):
        raise _damaged(path, f"is {labels.dtype}{list(labels.shape)}, not int32[{count}]")
    if labels.min() < 0 or labels.max() >= num_classes:
        raise _damaged(
            path, f"has labels {labels.min()} to {labels.max()}, not 0 to {num_classes - 1}"
        )
    return labels


def _captions(folder: epath.Path, count: int) -> list[tuple[str, ...]]:
    path = folder / "captions.jsonl"
    try:
        return read_captions(path, count)
    except (OSError, ValueError) as error:
        raise _damaged(path, f"is damaged ({error})") from error


def _damaged(path: epath.Path, what: str) -> UserError:
    return UserError(f"{path} {what}; copy it again, or prepare the data set again.")
