"""Cached latents: the moments of every image, written block by block and read as a `Source`.

One folder has one split:

    moments.npy    float16[N, V, h, w, 2C], mean and standard deviation along the last axis; V is 2
                   with mirror images, otherwise 1
    labels.npy     int32[N]; absent without labels
    manifest.json  the fields of `MomentsManifest`, including the checksums of finished blocks

float16 rounds a mean by at most 2^-11 of its value. The rounding of the pixels to 256 levels has a
larger effect, see docs/benchmarks.md.
"""

import hashlib
import json
import os
import zlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
from etils import epath

from cdt.data.sources import Source
from cdt.errors import UserError
from cdt.files import atomic

MOMENTS_SCHEMA = 1
MANIFEST = "manifest.json"
DTYPE = np.dtype("<f2")

# Images in a block. A killed program loses at most one block, at 0.01 to 10 seconds an image.
_BLOCK = 256


class MomentsManifest(NamedTuple):
    """Content of manifest.json; every value is plain JSON."""

    source: str  # name of the encoded source
    source_fingerprint: str
    count: int  # type: ignore[assignment]  # N; not tuple.count
    shape: list[int]  # (h, w, C)
    dtype: str
    mirrored: bool  # True: the mirror images were encoded too
    num_classes: int | None  # None: no labels
    autoencoder: str  # SHA-256 of its weights file
    scaling: Mapping[str, Any]  # fields of `cdt.diffusion.latent_scaling.Scaling`
    block_size: int  # images in a block
    checksums: list[int]  # CRC-32 of the moments of each finished block, in order
    schema: int = MOMENTS_SCHEMA

    @property
    def num_blocks(self) -> int:
        return -(-self.count // self.block_size)

    @property
    def complete(self) -> bool:
        return len(self.checksums) == self.num_blocks


def plan(
    source: Source,
    shape: tuple[int, int, int],
    autoencoder: str,
    scaling: Mapping[str, Any],
    *,
    mirror: bool,
    block_size: int = _BLOCK,
) -> MomentsManifest:
    """Return the manifest of a folder without finished blocks.

    Args:
      source: the images to encode.
      shape: (h, w, C) of one latent.
      autoencoder: SHA-256 of its weights file.
      scaling: dicts, lists, strings and numbers, as JSON returns them.
      mirror: encode the mirror images too.
      block_size: images in a block.
    """
    return MomentsManifest(
        source=source.name,
        source_fingerprint=source.fingerprint(),
        count=source.size,
        shape=list(shape),
        dtype=DTYPE.name,
        mirrored=mirror,
        num_classes=source.num_classes,
        autoencoder=autoencoder,
        scaling=scaling,
        block_size=block_size,
        checksums=[],
    )


def resumed(folder: epath.Path, planned: MomentsManifest) -> MomentsManifest:
    """Return the manifest to continue from: the one in `folder`, or `planned` in a new folder.

    Raises:
      UserError: the folder has other files, latents of another data set or config, or damaged
        latents.
    """
    _check_local(folder)
    if not (folder / MANIFEST).exists():
        if folder.exists() and any(folder.iterdir()):
            raise UserError(
                f"{folder} has files but no {MANIFEST}; give a new or empty folder for the latents."
            )
        return planned
    found = _read(folder)
    # The block size may differ: the folder keeps its first one.
    wanted = planned._replace(checksums=found.checksums, block_size=found.block_size)
    if difference := _first_difference(found, wanted):
        raise UserError(
            f"{folder} has latents with another {difference}; give another folder, or remove this "
            "one to encode from scratch."
        )
    if found.checksums:
        _open(folder, found)
    return found


def write(
    folder: epath.Path,
    manifest: MomentsManifest,
    source: Source,
    encode: Callable[[np.ndarray], np.ndarray],
) -> Iterator[int]:
    """Encode the unfinished blocks and yield the number of finished images after each.

    A block is finished when it is on the disk and the manifest lists it, so an interruption loses
    at most one block. The caller stops the work by stopping the iteration.

    Args:
      folder: local; created if it does not exist.
      manifest: result of `resumed`.
      source: the images.
      encode: uint8[n, H, W, C] -> float[n, h, w, 2C], mean and standard deviation.

    Raises:
      UserError: the folder cannot be written to, or a latent is NaN or inf in float16.
    """
    finished = list(manifest.checksums)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if not finished:
            atomic.write(folder / MANIFEST, _json(manifest))
            for name, (dtype, shape) in _arrays(manifest).items():
                np.lib.format.open_memmap(folder / name, "w+", dtype, shape)
        arrays = _open(folder, manifest)
        for block in range(len(finished), manifest.num_blocks):
            start = block * manifest.block_size
            indices = np.arange(start, min(start + manifest.block_size, manifest.count))
            images = source.images(indices)
            views = [images, images[:, :, ::-1]] if manifest.mirrored else [images]
            with np.errstate(over="ignore"):  # the check below reports it
                moments = np.stack([encode(view) for view in views], axis=1).astype(DTYPE)
            if not np.isfinite(moments).all():
                raise UserError(
                    f"The latents of images {start} to {indices[-1]} of {source.name} contain NaN "
                    "or inf in float16: the autoencoder does not fit these images; set "
                    "config.latents.weights to another one."
                )
            _store(folder / "moments.npy", arrays["moments.npy"], start, moments)
            if source.labels is not None:
                _store(folder / "labels.npy", arrays["labels.npy"], start, source.labels[indices])
            finished.append(zlib.crc32(moments.tobytes()))
            atomic.write(folder / MANIFEST, _json(manifest._replace(checksums=finished)))
            yield int(indices[-1]) + 1
    except OSError as error:
        raise UserError(
            f"{folder} cannot be written to ({error.strerror or error}); the latents need a local "
            f"folder with {manifest.count * _image_bytes(manifest) / 1e9:.3g} GB of free space."
        ) from error


def latents(
    path: epath.PathLike, split: str, autoencoder: str, scaling: Mapping[str, Any]
) -> Source:
    """Return a source of cached latents, memory-mapped.

    Args:
      path: the --workdir of `python -m cdt.data.latents`.
      split: 'train' or 'test'.
      autoencoder: SHA-256 of the weights file of the run's autoencoder.
      scaling: the run's scaling, as for `plan`.

    Returns:
      A source whose `images` are float16[n, h, w, 2C] moments, for
      `cdt.diffusion.latent_scaling.posterior_sample`, and whose `shape` is (h, w, C).

    Raises:
      UserError: the latents are missing, unfinished or damaged, or were encoded with another
        autoencoder or scaling than the run's.
    """
    folder = epath.Path(path) / split
    _check_local(folder)
    if not (folder / MANIFEST).exists():
        raise UserError(
            f"{folder} contains no latents; create them with `python -m cdt.data.latents`, and set "
            "config.data.path to its --workdir."
        )
    manifest = _read(folder)
    if not manifest.complete:
        raise UserError(
            f"the latents in {folder} are not complete ({len(manifest.checksums)} of "
            f"{manifest.num_blocks} blocks); run the same `python -m cdt.data.latents` again."
        )
    wanted = manifest._replace(autoencoder=autoencoder, scaling=scaling)
    if difference := _first_difference(manifest, wanted):
        raise UserError(
            f"the latents in {folder} were encoded with another {difference}; set config.latents "
            "to the same values, or encode again into another folder."
        )
    arrays = _open(folder, manifest)
    moments, labels = np.asarray(arrays["moments.npy"]), arrays.get("labels.npy")

    def fingerprint() -> str:
        return hashlib.sha256(_json(manifest).encode()).hexdigest()

    height, width, channels = manifest.shape
    return Source(
        name=f"{manifest.source} as latents",
        images=lambda indices: moments[indices, 0],
        labels=None if labels is None else np.array(labels),
        num_classes=manifest.num_classes,
        shape=(height, width, channels),
        size=manifest.count,
        fingerprint=fingerprint,
        mirror_images=(lambda indices: moments[indices, 1]) if manifest.mirrored else None,
        pixels=False,
        origin=manifest.source_fingerprint,
    )


def _arrays(manifest: MomentsManifest) -> dict[str, tuple[np.dtype, tuple[int, ...]]]:
    height, width, channels = manifest.shape
    views = 2 if manifest.mirrored else 1
    shape = (manifest.count, views, height, width, 2 * channels)
    arrays: dict[str, tuple[np.dtype, tuple[int, ...]]] = {
        "moments.npy": (np.dtype(manifest.dtype), shape)
    }
    if manifest.num_classes is not None:
        arrays["labels.npy"] = (np.dtype("<i4"), (manifest.count,))
    return arrays


def _image_bytes(manifest: MomentsManifest) -> int:
    dtype, shape = _arrays(manifest)["moments.npy"]
    return dtype.itemsize * int(np.prod(shape[1:]))


def _store(path: epath.Path, array: np.memmap, start: int, values: np.ndarray) -> None:
    """Write values[i] to the disk as element start + i of a memory-mapped array.

    It writes through the file: on a full disk, a write through the map would kill the process.
    """
    with open(path, "r+b") as file:
        file.seek(array.offset + start * array[0].nbytes)
        file.write(values.astype(array.dtype).tobytes())
        file.flush()
        os.fsync(file.fileno())


def _check_local(folder: epath.Path) -> None:
    if "://" in os.fspath(folder):
        raise UserError(
            f"{folder} is not a local folder; latents are memory-mapped, so give a folder on a "
            "local disk."
        )


def _open(folder: epath.Path, manifest: MomentsManifest) -> dict[str, np.memmap]:
    """Return the arrays of the manifest, memory-mapped for reading."""
    opened = {}
    for name, (dtype, shape) in _arrays(manifest).items():
        try:
            array = np.load(folder / name, mmap_mode="r", allow_pickle=False)
        # The file is missing, truncated or not an array (OverflowError: an absurd shape).
        except (OSError, ValueError, EOFError, OverflowError) as error:
            raise _damaged(folder / name, error) from error
        if array.dtype != dtype or array.shape != shape:
            found = f"it contains {array.dtype}{list(array.shape)}, not {dtype}{list(shape)}"
            raise _damaged(folder / name, found)
        opened[name] = array
    return opened


def _read(folder: epath.Path) -> MomentsManifest:
    try:
        content = json.loads((folder / MANIFEST).read_text())
        if content["schema"] != MOMENTS_SCHEMA:
            raise ValueError(f"its schema is {content['schema']}, not {MOMENTS_SCHEMA}")
        del content["complete"]
        return MomentsManifest(**content)
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise _damaged(folder / MANIFEST, error) from error


def _json(manifest: MomentsManifest) -> str:
    return json.dumps(manifest._asdict() | {"complete": manifest.complete}, indent=1)


def _first_difference(found: MomentsManifest, wanted: MomentsManifest) -> str | None:
    for name, saved, now in zip(MomentsManifest._fields, found, wanted, strict=True):
        if saved != now:
            return f"{name} (saved: {saved!r}, now: {now!r})"
    return None


def _damaged(path: epath.Path, error: object) -> UserError:
    return UserError(
        f"{path} is damaged or was not written by cdt ({error}); remove its folder and run "
        "`python -m cdt.data.latents` again."
    )
