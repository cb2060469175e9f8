"""A data set as an autoencoder encoded it: written block by block, read as a `Source`.

A folder holds one split:

    moments.npy    float16[N, V, h, w, 2C]: mean and standard deviation along the last axis; V = 2
                   where the mirror images were encoded too, otherwise 1
    labels.npy     int32[N], where there are labels
    manifest.json  what they are, see `MomentsManifest`, and which blocks are finished

float16 rounds a mean by a 2^-11 of itself at most. The 256 levels of a pixel move it more: see
docs/benchmarks.md.
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

# An autoencoder takes 0.01 to 10 seconds an image; a block is what a kill costs.
_BLOCK = 256


class MomentsManifest(NamedTuple):
    """What a folder of moments says about itself; plain numbers and strings, as JSON holds them."""

    source: str  # name of the source that was encoded
    source_fingerprint: str
    count: int  # type: ignore[assignment]  # N; not tuple.count
    shape: list[int]  # (h, w, C)
    dtype: str
    mirrored: bool  # whether the mirror images were encoded too
    num_classes: int | None  # None: no labels
    autoencoder: str  # SHA-256 of its file of weights
    scaling: Mapping[str, Any]  # see `cdt.diffusion.latent_scaling.Scaling`
    block_size: int  # images
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
    """The manifest of a folder in which nothing is encoded yet; arguments: `MomentsManifest`.

    `scaling` must be what JSON gives back: dicts, lists, strings and numbers.
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
    """The folder's own manifest if it holds a part of what is planned, `planned` if it is new.

    Raises:
      UserError: it holds something else, or what it holds is damaged.
    """
    _check_local(folder)
    if not (folder / MANIFEST).exists():
        if folder.exists() and any(folder.iterdir()):
            raise UserError(
                f"{folder} holds files but no {MANIFEST}; give an empty folder or a new one for "
                "the latents."
            )
        return planned
    found = _read(folder)
    # How the work was cut into blocks is the folder's own affair.
    wanted = planned._replace(checksums=found.checksums, block_size=found.block_size)
    if difference := _first_difference(found, wanted):
        raise UserError(
            f"{folder} holds latents with another {difference}; give another folder, or remove "
            "that one to encode anew."
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
    """Encode what is not finished yet, yielding the number of finished images after each block.

    A block counts once it is on the disk and the manifest lists it: whatever happens in between
    costs that block only. Stopping the iteration stops the work.

    Args:
      folder: a local one; made if it does not exist.
      manifest: of `resumed`.
      source: the images.
      encode: uint8[n, H, W, C] -> float[n, h, w, 2C], mean and standard deviation.

    Raises:
      UserError: the folder cannot be written to, or a latent is not finite in float16.
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
            with np.errstate(over="ignore"):  # found by the check below, in words
                moments = np.stack([encode(view) for view in views], axis=1).astype(DTYPE)
            if not np.isfinite(moments).all():
                raise UserError(
                    f"The latents of some image from {start} to {indices[-1]} of {source.name} are "
                    "not finite numbers of float16: the weights do not fit these images, so give "
                    "others as config.latents.weights."
                )
            _store(folder / "moments.npy", arrays["moments.npy"], start, moments)
            if source.labels is not None:
                _store(folder / "labels.npy", arrays["labels.npy"], start, source.labels[indices])
            finished.append(zlib.crc32(moments.tobytes()))
            atomic.write(folder / MANIFEST, _json(manifest._replace(checksums=finished)))
            yield int(indices[-1]) + 1
    except OSError as error:
        raise UserError(
            f"{folder} cannot be written to ({error.strerror or error}): latents need a local "
            f"folder with {manifest.count * _image_bytes(manifest) / 1e9:.3g} GB of space."
        ) from error


def latents(
    path: epath.PathLike, split: str, autoencoder: str, scaling: Mapping[str, Any]
) -> Source:
    """The moments of a split in place of its images, read from the disk on demand.

    Args:
      path: what `python -m cdt.data.latents` was given as --workdir.
      split: 'train' or 'test'.
      autoencoder: SHA-256 of the weights that the run names.
      scaling: of the run, as `plan` takes it.

    Returns:
      A source whose `images` are float16[n, h, w, 2C] moments, for
      `cdt.diffusion.latent_scaling.posterior_sample`, and whose `shape` is (h, w, C).

    Raises:
      UserError: there are no such latents, or only a part of them; they are damaged; or they were
        made with another autoencoder or scaling than the run's.
    """
    folder = epath.Path(path) / split
    _check_local(folder)
    if not (folder / MANIFEST).exists():
        raise UserError(
            f"there are no latents in {folder}: make them with `python -m cdt.data.latents`, and "
            "give its --workdir as config.data.path"
        )
    manifest = _read(folder)
    if not manifest.complete:
        raise UserError(
            f"the latents in {folder} are not complete ({len(manifest.checksums)} of "
            f"{manifest.num_blocks} blocks): run the same `python -m cdt.data.latents` again"
        )
    wanted = manifest._replace(autoencoder=autoencoder, scaling=scaling)
    if difference := _first_difference(manifest, wanted):
        raise UserError(
            f"the latents in {folder} were made with another {difference}: give config.latents of "
            "theirs, or make them anew in another folder"
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
    """Write values[i] to the disk as element start + i of an array that is mapped for reading.

    Through the file and not through the map: on a full disk the latter kills the process.
    """
    with open(path, "r+b") as file:
        file.seek(array.offset + start * array[0].nbytes)
        file.write(values.astype(array.dtype).tobytes())
        file.flush()
        os.fsync(file.fileno())


def _check_local(folder: epath.Path) -> None:
    if "://" in os.fspath(folder):
        raise UserError(
            f"latents cannot lie in {folder}: they are mapped into memory, so give a folder on a "
            "local disk"
        )


def _open(folder: epath.Path, manifest: MomentsManifest) -> dict[str, np.memmap]:
    """The arrays of the manifest, mapped into memory for reading."""
    opened = {}
    for name, (dtype, shape) in _arrays(manifest).items():
        try:
            array = np.load(folder / name, mmap_mode="r", allow_pickle=False)
        # Missing, cut short, or no array; of an absurd shape.
        except (OSError, ValueError, EOFError, OverflowError) as error:
            raise _damaged(folder / name, error) from error
        if array.dtype != dtype or array.shape != shape:
            found = f"it holds {array.dtype}{list(array.shape)}, not {dtype}{list(shape)}"
            raise _damaged(folder / name, found)
        opened[name] = array
    return opened


def _read(folder: epath.Path) -> MomentsManifest:
    try:
        content = json.loads((folder / MANIFEST).read_text())
        if content["schema"] != MOMENTS_SCHEMA:
            raise ValueError(f"its schema is {content['schema']} and not {MOMENTS_SCHEMA}")
        del content["complete"]
        return MomentsManifest(**content)
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise _damaged(folder / MANIFEST, error) from error


def _json(manifest: MomentsManifest) -> str:
    return json.dumps(manifest._asdict() | {"complete": manifest.complete}, indent=1)


def _first_difference(found: MomentsManifest, wanted: MomentsManifest) -> str | None:
    for name, there, here in zip(MomentsManifest._fields, found, wanted, strict=True):
        if there != here:
            return f"{name} (there {there!r}, now {here!r})"
    return None


def _damaged(path: epath.Path, error: object) -> UserError:
    return UserError(
        f"{path} is damaged or of another program ({error}): remove its folder and run "
        "`python -m cdt.data.latents` again"
    )
