"""Caches what a text encoder makes of the captions of a prepared data set.

    python -m cdt.data.text --data=OUT --encoder=openai/clip-vit-large-patch14

reads the captions of OUT/train and writes OUT/train/text, for `config.data.text_encoder`; the same
with --split=test for the other split, and with --out=LATENTS to put the states beside the latents
of these images. cdt/data/text_states.py describes what is written. The
encoder is any text model that the `transformers` library loads, by name or from a folder.

Running the same command again goes on where it was stopped. Exit codes: 0 finished; 2 something
given was wrong (one sentence says what); 75 stopped by a signal, run again.
"""

import json
import sys
from contextlib import closing

import numpy as np
from absl import flags
from etils import epath

from cdt import atomic
from cdt.data.prepared import prepared
from cdt.data.sources import Source
from cdt.data.text_encoder import TextEncoder, load_encoder
from cdt.data.text_states import TextManifest, text_folder
from cdt.errors import EXIT_FINISHED, EXIT_STOPPED, EXIT_USER_ERROR, UserError
from cdt.progress import Progress
from cdt.signals import StopRequest


def cache_states(
    source: Source, encoder: TextEncoder, folder: epath.PathLike, batch_size: int
) -> bool:
    """Writes the states of a source's captions as cdt/data/text_states.py describes.

    Args:
      source: with captions.
      folder: local, created if absent; the states of an unfinished call with the same source and
        encoder are kept.
      batch_size: captions at a time.

    Returns:
      Whether all is done; False after SIGTERM or SIGINT.

    Raises:
      UserError: no captions, states that float16 cannot hold, or another call's states in the
        folder.
    """
    folder = epath.Path(folder)
    if source.captions is None:
        raise UserError(
            f"{source.name} has no captions: prepare it from a folder with captions.jsonl"
        )
    manifest = TextManifest(
        encoder.name, encoder.sha256, source.size, encoder.max_length, encoder.width,
        source.fingerprint(),
    )  # fmt: skip
    finished, progress_file = folder / "manifest.json", folder / "unfinished.json"
    start = 0
    for path in (finished, progress_file):
        if path.exists():
            there = json.loads(path.read_text())
            start = there.pop("done", source.size + 1)
            if there != manifest._asdict():
                raise UserError(
                    f"{folder} holds the states of another encoder or of other captions: remove it "
                    "and run the same command again"
                )
            break
    if finished.exists():
        return True

    folder.mkdir(parents=True, exist_ok=True)
    mode = "r+" if start else "w+"
    shape = (source.size + 1, encoder.max_length, encoder.width)
    states = np.memmap(folder / "states.bin", np.float16, mode=mode, shape=shape)
    lengths = np.lib.format.open_memmap(
        folder / "lengths.npy", mode=mode, dtype=np.int32, shape=shape[:1]
    )
    progress = Progress(len(states), start, unit="caption")
    with StopRequest() as stop, closing(progress):
        while start < len(states) and not stop.requested:
            indices = np.arange(start, min(start + batch_size, len(states)))
            captions = [*source.captions(indices[indices < source.size])]
            captions += [""] * (len(indices) - len(captions))  # the empty caption comes last
            found, lengths[indices] = encoder.encode(captions)
            largest = np.abs(found).max()
            if not largest <= np.finfo(np.float16).max:
                raise UserError(
                    f"a state of '{encoder.name}' is {largest:.3g}, which float16 cannot hold; use "
                    "another text encoder"
                )
            states[indices] = found
            states.flush()
            lengths.flush()
            start += len(indices)
            # After the states themselves are on disk, so that a kill never skips any.
            atomic.write(progress_file, json.dumps(manifest._asdict() | {"done": start}))
            progress.update(start)
    if start < len(states):
        return False
    atomic.write(finished, json.dumps(manifest._asdict(), indent=1))
    progress_file.unlink()
    return True


def define_flags() -> flags.FlagValues:
    """The flags of this program, apart from those of any other."""
    known = flags.FlagValues()
    own = dict(flag_values=known)
    flags.DEFINE_string("data", None, "Local folder that cdt.data.prepare wrote to.", **own)
    flags.DEFINE_string("out", "", "Where else to write, such as a folder of latents.", **own)
    flags.DEFINE_string("split", "train", "Which split of it.", **own)
    flags.DEFINE_string("encoder", None, "Name on the hub, or folder, of a text model.", **own)
    flags.DEFINE_integer("max_length", 77, "Tokens a caption is cut and padded to.", 1, **own)
    flags.DEFINE_integer("batch_size", 64, "Captions at a time.", 1, **own)
    flags.DEFINE_bool("help", False, "Show this.", **own)
    return known


def run(argv: list[str]) -> int:
    """Runs a command line; returns the exit code."""
    given = define_flags()
    try:
        try:
            rest = given(argv)
        except flags.Error as error:
            raise UserError(f"{error} (--help lists the flags)") from None
        if given.help:
            print(__doc__ + given.get_help())
            return EXIT_FINISHED
        if rest[1:]:
            raise UserError(f"'{rest[1]}' is not a flag; write --name=value.")
        for name in ("data", "encoder"):
            if not given[name].value:
                raise UserError(f"--{name} is missing: {given[name].help[0].lower()}"
                                f"{given[name].help[1:]}")  # fmt: skip
        split = epath.Path(given.data) / given.split
        source = prepared(split)
        encoder = load_encoder(given.encoder, given.max_length)
        folder = text_folder(epath.Path(given.out or given.data) / given.split)
        if not cache_states(source, encoder, folder, given.batch_size):
            print("cdt: stopped; run the same command again to go on", file=sys.stderr)
            return EXIT_STOPPED
    except UserError as error:
        print(f"cdt: {error}", file=sys.stderr)
        return EXIT_USER_ERROR
    print(f"{folder}: {source.size} captions, states of {encoder.max_length} x {encoder.width}")
    return EXIT_FINISHED


if __name__ == "__main__":
    sys.exit(run(sys.argv))
