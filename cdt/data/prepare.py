"""Prepares a data set: any source becomes images of one size that are read fast.

    python -m cdt.data.prepare --source=folder --path=DIR --out=OUT --image_size=64 --channels=3

reads DIR/train (class folders, captions.jsonl, or neither) and writes OUT/train, for
`config.data.name = "prepared"` and `config.data.path = OUT`. The same with --split=test prepares
the other split; a set that has none is divided with --holdout=0.1. cdt/data/prepared_format.py
describes what is written, cdt/data/folder.py the folders. --check --out=OUT reads a prepared split
again and compares its hash.

Running the same command again goes on after the last finished shard. Exit codes: 0 finished; 2
something given was wrong (one sentence says what); 75 stopped by a signal, run again.
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

from cdt.data import sources
from cdt.data.command_line import parsed
from cdt.data.folder import from_listing, list_pictures
from cdt.data.idx import idx
from cdt.data.prepared_format import FORMS, PreparedManifest, check, prepared
from cdt.data.shards import Form, Stopped
from cdt.data.sources import BadExample, Source
from cdt.data.split_writer import Part, write_split
from cdt.errors import EXIT_FINISHED, EXIT_STOPPED, EXIT_USER_ERROR, UserError

_SHARD = 4096  # examples, unless --shards says otherwise


class Opened(NamedTuple):
    """A source, and how a worker process opens the part that it needs of it."""

    source: Source
    # indices int64[n] -> (what opens a source, the same examples in that source), to be pickled;
    # None where the data are in memory, so that other processes would only copy them
    part: Part | None


def _folder(given: flags.FlagValues) -> Opened:
    if not given.image_size or not given.channels:
        raise UserError("--image_size and --channels are missing: say what the images shall be")
    # A set that is to be divided has no folders of splits yet.
    root = epath.Path(given.path) if given.holdout else epath.Path(given.path) / given.split
    listing = list_pictures(root)
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
    """The flags of this program, apart from those of any other."""
    known = flags.FlagValues()
    own: dict[str, Any] = dict(flag_values=known)
    flags.DEFINE_enum("source", None, sorted(SOURCES), "Where the images come from.", **own)
    flags.DEFINE_string("path", "", "Folder, file, or name of a TFDS data set.", **own)
    flags.DEFINE_string("out", None, "Local folder to write to; it gets a folder a split.", **own)
    flags.DEFINE_string("split", "train", "Which split to prepare.", **own)
    flags.DEFINE_float(
        "holdout", 0.0, "Share of the split that goes to OUT/test; the rest to OUT/train. A "
        "folder is then read itself, without a folder of the split.", 0.0, 0.99, **own,
    )  # fmt: skip
    flags.DEFINE_integer(
        "image_size", 0, "Height and width in pixels; 0: those of the source.", 0, **own
    )
    flags.DEFINE_integer("channels", 0, "1: grey, 3: RGB, 0: those of the source.", **own)
    flags.DEFINE_bool("upscale", False, "Enlarge images that are too small.", **own)
    flags.DEFINE_enum("form", "memmap", FORMS, "memmap: fastest; array_record: for buckets.", **own)
    flags.DEFINE_integer(
        "shards", 0, f"Pieces of the work, and files of ArrayRecord; 0: one for {_SHARD} images.",
        0, **own,
    )  # fmt: skip
    flags.DEFINE_integer("workers", 1, "Processes that decode pictures.", 1, **own)
    flags.DEFINE_enum(
        "on_bad", "fail", ["fail", "skip"], "Images that are damaged or too small.", **own
    )
    flags.DEFINE_string("licence", "", "A note for the manifest.", **own)
    flags.DEFINE_bool("check", False, "Verify what lies in OUT/SPLIT instead.", **own)
    flags.DEFINE_bool("help", False, "Show this.", **own)
    return known


def parse(argv: list[str]) -> flags.FlagValues:
    """The flags of a command line.

    Raises:
      UserError: a flag is unknown, wrong or missing.
    """
    given = parsed(define_flags(), argv)
    if given.help:
        return given
    if not given.out:
        raise UserError("--out is missing: give the folder to write to")
    if "://" in given.out:
        raise UserError(
            f"--out is {given.out}: prepare to a local folder with --form=array_record, then copy "
            "it to the bucket"
        )
    if not given.check and not given.source:
        raise UserError(f"--source is missing: give one of {', '.join(sorted(SOURCES))}")
    if given.source not in (None, "digits") and not given.path:
        raise UserError("--path is missing: give the folder, file or name of the data set")
    if given.channels not in (0, 1, 3):
        raise UserError(f"--channels is {given.channels}: give 1 for grey or 3 for RGB")
    if given.holdout and given.split != "train":
        raise UserError("--holdout divides the split train: leave out --split, or --holdout")
    given.out, given.path = os.path.expanduser(given.out), os.path.expanduser(given.path)
    return given


def _prepare(given: flags.FlagValues) -> None:
    opened = SOURCES[given.source](given)
    source = opened.source
    height, width, channels = source.shape
    if not given.image_size and height != width:
        raise UserError(
            f"the images of {source.name} are {height}x{width}: give --image_size to crop them"
        )
    shape = (given.image_size or height,) * 2 + (given.channels or channels,)
    parts = {given.split: np.arange(source.size)}
    if given.holdout:
        order = np.random.RandomState(0).permutation(source.size)  # a stream NumPy has frozen
        cut = round(given.holdout * source.size)
        if not 0 < cut < source.size:
            raise UserError(
                f"--holdout is {given.holdout}, which leaves a part of the {source.size} images "
                "empty: give a larger set or another share"
            )
        parts = {"train": np.sort(order[cut:]), "test": np.sort(order[:cut])}
    settings = {
        name: given[name].value
        for name in ("source", "path", "split", "holdout", "upscale", "on_bad", "licence")
    } | {"fingerprint": source.fingerprint()}
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
        _tell(folder, manifest)


def _tell(folder: Path, manifest: PreparedManifest) -> None:
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
    try:
        given = parse(argv)
        if given.help:
            print(__doc__ + given.get_help())
            return EXIT_FINISHED
        if given.check:
            folder = epath.Path(given.out) / given.split
            _tell(folder, check(folder))
        else:
            _prepare(given)
        return EXIT_FINISHED
    except (Stopped, KeyboardInterrupt):
        print("cdt: stopped; run the same command again to go on", file=sys.stderr)
        return EXIT_STOPPED
    except UserError as error:
        hint = ""
        if isinstance(error, BadExample) and not given.check:
            hint = "; --on_bad=skip leaves bad images out, --upscale enlarges small ones"
        print(f"cdt: {error}{hint}", file=sys.stderr)
        return EXIT_USER_ERROR


if __name__ == "__main__":
    sys.exit(prepare_command(sys.argv))
