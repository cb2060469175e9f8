"""Prepare a data set: convert the images of any source to one size.

Usage:
  python -m cdt.data.prepare --source=SOURCE --path=PATH --out=OUT
      [--image_size=N] [--channels=N] [--split=NAME | --holdout=FRACTION] ...
  python -m cdt.data.prepare --check --out=OUT [--split=NAME]

Examples:
  python -m cdt.data.prepare --source=folder --path=photos --out=data/photos \\
      --image_size=64 --channels=3 --on_bad=skip
  python -m cdt.data.prepare --source=folder --path=photos --out=data/photos \\
      --image_size=64 --channels=3 --on_bad=skip --split=test

The first example reads photos/train: class folders, captions.jsonl, or image
files alone. It writes data/photos/train, which a run reads with
data.name = "prepared" and data.path = "data/photos". The second prepares the
test split. --holdout=0.1 makes both splits of a folder without splits.

The same command again continues after the last finished shard.
Exit codes: 0 finished, 2 wrong input, 75 stopped by a signal (run the same
command again).
"""

import os
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from absl import flags
from etils import epath

from cdt import usage
from cdt.data import sources
from cdt.data.command_line import flag_list, parsed
from cdt.data.folder import from_listing, list_images
from cdt.data.idx import idx
from cdt.data.prepared_format import FORMS, PreparedManifest, check, prepared
from cdt.data.shards import Form, Stopped
from cdt.data.sources import BadExample, Source
from cdt.data.split_writer import Part, write_split
from cdt.errors import EXIT_FINISHED, EXIT_STOPPED, EXIT_USER_ERROR, UserError
from cdt.monitoring import console

_SHARD = 4096  # images in a shard, without --shards


class Opened(NamedTuple):
    """A source, and a function with which a worker process opens a part of it."""

    source: Source
    # indices int64[n] -> (function that opens a source, indices of the same examples in it); can be
    # pickled. None: the data are in memory, so worker processes would only copy them.
    part: Part | None


def _folder(given: flags.FlagValues) -> Opened:
    if not given.image_size or not given.channels:
        raise UserError(
            "--image_size or --channels is missing; a folder needs both, such as --image_size=64 "
            "--channels=3."
        )
    # A set that is to be divided has no folders of splits yet.
    root = epath.Path(given.path) if given.holdout else epath.Path(given.path) / given.split
    listing = list_images(root)
    form = dict(image_size=given.image_size, channels=given.channels, upscale=given.upscale)

    def part(indices: np.ndarray) -> tuple[Callable[[], Source], np.ndarray]:
        # Only its own names: a worker should neither list the folder nor hold all of it.
        return partial(from_listing, listing.take(indices), **form), np.arange(len(indices))

    return Opened(from_listing(listing, **form), part)


def _reopened(open_source: Callable[[], Source]) -> Opened:
    return Opened(open_source(), lambda indices: (open_source, indices))


SOURCES = {
    "digits": lambda given: Opened(sources.digits(given.split), None),
    "folder": _folder,
    "idx": lambda given: Opened(idx(given.path, given.split), None),
    "npz": lambda given: Opened(sources.npz(given.path, given.split), None),
    "prepared": lambda given: _reopened(partial(prepared, f"{given.path}/{given.split}")),
    "tfds": lambda given: _reopened(partial(sources.tfds, given.path, given.split)),
}


def define_flags() -> flags.FlagValues:
    """Return the flags of this program, without values."""
    known = flags.FlagValues()
    own: dict[str, Any] = dict(flag_values=known)
    flags.DEFINE_enum("source", None, sorted(SOURCES), "kind of the source", **own)
    flags.DEFINE_string("path", "", "folder, file or TFDS name of the source", **own)
    flags.DEFINE_string("out", None, "local folder to write to: OUT/train, OUT/test", **own)
    flags.DEFINE_string("split", "train", "split to prepare", **own)
    flags.DEFINE_float(
        "holdout", 0.0, "fraction of the images for OUT/test, the rest for OUT/train; a folder is "
        "then read without a subfolder for the split", 0.0, 0.99, **own,
    )  # fmt: skip
    flags.DEFINE_integer(
        "image_size", 0, "height and width in pixels; 0: as in the source", 0, **own
    )
    flags.DEFINE_integer("channels", 0, "1: grey, 3: RGB, 0: as in the source", **own)
    flags.DEFINE_bool("upscale", False, "enlarge images that are too small", **own)
    flags.DEFINE_enum(
        "form", "memmap", FORMS, "memmap is the fastest, array_record is for buckets", **own
    )
    flags.DEFINE_integer(
        "shards", 0, f"number of shards; 0: one for every {_SHARD} images", 0, **own
    )
    flags.DEFINE_integer("workers", 1, "processes that decode images", 1, **own)
    flags.DEFINE_enum("on_bad", "fail", ["fail", "skip"], "at a damaged or too small image", **own)
    flags.DEFINE_string("license", "", "a note for the manifest", **own)
    flags.DEFINE_alias("licence", "license", **own)  # the name in version 0.1.0
    flags.DEFINE_bool("check", False, "verify the hash of OUT/SPLIT, prepare nothing", **own)
    return known


def parse(argv: list[str]) -> flags.FlagValues:
    """Return the flags of a command line.

    Raises:
      UserError: a flag is unknown, wrong or missing.
    """
    given = parsed(define_flags(), argv)
    if not given.out:
        raise UserError("--out is missing; give the folder to write to.")
    if "://" in given.out:
        raise UserError(
            f"--out is '{given.out}'; it must be a local folder: prepare there with "
            "--form=array_record, then copy the folder to the bucket."
        )
    if not given.check and not given.source:
        raise UserError(f"--source is missing; give one of {', '.join(sorted(SOURCES))}.")
    if given.source not in (None, "digits") and not given.path:
        raise UserError("--path is missing; give the folder, file or TFDS name of the source.")
    if given.channels not in (0, 1, 3):
        raise UserError(f"--channels is {given.channels}; it must be 1 (grey) or 3 (RGB).")
    if given.holdout and given.split != "train":
        raise UserError(
            f"--split is '{given.split}' and --holdout is {given.holdout}; --holdout divides the "
            "split 'train' only: leave out one of the two flags."
        )
    given.out, given.path = os.path.expanduser(given.out), os.path.expanduser(given.path)
    return given


def _prepare(given: flags.FlagValues) -> None:
    opened = SOURCES[given.source](given)
    source = opened.source
    height, width, channels = source.shape
    if not given.image_size and height != width:
        raise UserError(
            f"The images of {source.name} are {height}x{width}, not square; give --image_size to "
            "crop and resize them."
        )
    shape = (given.image_size or height,) * 2 + (given.channels or channels,)
    parts = {given.split: np.arange(source.size)}
    if given.holdout:
        order = np.random.RandomState(0).permutation(source.size)  # a stream NumPy has frozen
        cut = round(given.holdout * source.size)
        if not 0 < cut < source.size:
            raise UserError(
                f"--holdout is {given.holdout}, which leaves one of the two splits of "
                f"{source.size} images empty; give another fraction."
            )
        parts = {"train": np.sort(order[cut:]), "test": np.sort(order[:cut])}
    settings = {
        name: given[name].value
        for name in ("source", "path", "split", "holdout", "upscale", "on_bad")
    } | {"licence": given.license, "fingerprint": source.fingerprint()}
    form = Form(given.form, shape, given.upscale, given.on_bad == "skip")
    for split, indices in parts.items():
        folder = epath.Path(given.out) / split
        manifest = write_split(
            source,
            opened.part,
            indices,
            folder,
            form,
            shards=min(given.shards or -(-len(indices) // _SHARD), len(indices)),
            workers=given.workers,
            settings=settings,
        )
        _report(folder, manifest)


def _report(folder: Path, manifest: PreparedManifest) -> None:
    classes = "no classes" if manifest.num_classes is None else f"{manifest.num_classes} classes"
    captions = ", captions" if manifest.captions else ""
    print(
        f"{folder}: {manifest.count} images of {'x'.join(map(str, manifest.shape))}, {classes}"
        f"{captions}, sha256 {manifest.sha256[:16]}"
    )
    if manifest.skipped:
        print(f"{len(manifest.skipped)} images were skipped, the first: {manifest.skipped[0]}")


def prepare_command(argv: list[str]) -> int:
    """Run a command line; return the exit code."""
    console.open_console()
    text = f"{__doc__}\nFlags:\n{flag_list(define_flags())}"
    if (answered := usage.answer(argv, text)) is not None:
        return answered
    try:
        given = parse(argv)
        if given.check:
            folder = epath.Path(given.out) / given.split
            _report(folder, check(folder))
        else:
            _prepare(given)
        return EXIT_FINISHED
    except (Stopped, KeyboardInterrupt):
        print("cdt: stopped; run the same command again to continue", file=sys.stderr)
        return EXIT_STOPPED
    except UserError as error:
        hint = ""
        if isinstance(error, BadExample) and not given.check:
            hint = "; --on_bad=skip leaves bad images out, --upscale enlarges small ones"
        print(f"cdt: {error}{hint}", file=sys.stderr)
        return EXIT_USER_ERROR


if __name__ == "__main__":
    sys.exit(prepare_command(sys.argv))
