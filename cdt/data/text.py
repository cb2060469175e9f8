"""Encode the captions of a prepared data set once, with a text encoder.

Usage:
  python -m cdt.data.text --data=OUT --encoder=ENCODER [--split=NAME]
      [--out=LATENTS] [--max_length=N] [--batch_size=N]

Example:
  python -m cdt.data.text --data=data/emoji \\
      --encoder=openai/clip-vit-large-patch14

The example reads the captions of data/emoji/train and writes their text states
to data/emoji/train/text. A run reads them with data.text_encoder = ENCODER.
ENCODER is any text model of `transformers`: its name on the Hugging Face hub or
a folder. For a run on latents of the same images, give --out=LATENTS.

The same command again continues a stopped one.
Exit codes: 0 finished, 2 wrong input, 75 stopped by a signal (run the same
command again).
"""

import itertools
import json
import os
import sys
from contextlib import closing
from typing import Any

import numpy as np
from absl import flags
from etils import epath

from cdt import usage
from cdt.data.captions import caption_lines
from cdt.data.command_line import flag_list, parsed
from cdt.data.prepared_format import prepared
from cdt.data.sources import Source
from cdt.data.text_encoder import TextEncoder, load_encoder
from cdt.data.text_states import TextManifest, text_folder
from cdt.devices.signals import StopRequest
from cdt.errors import EXIT_FINISHED, EXIT_STOPPED, EXIT_USER_ERROR, UserError
from cdt.files import atomic
from cdt.monitoring import console
from cdt.monitoring.progress import Progress

_UNFINISHED = "unfinished.json"


def cache_states(
    source: Source, encoder: TextEncoder, folder: epath.PathLike, batch_size: int
) -> bool:
    """Encode the captions of a source and write their states; see cdt/data/text_states.py.

    An unfinished call with the same source and encoder is continued.

    Args:
      source: must have captions.
      encoder: of `load_encoder`.
      folder: local; created if it does not exist.
      batch_size: captions in a batch.

    Returns:
      True when all captions are encoded; False after SIGTERM or SIGINT.

    Raises:
      UserError: the source has no captions, a state overflows float16, the folder has the states of
        another source or encoder, or it cannot be written.
    """
    folder = epath.Path(folder)
    if source.captions is None:
        raise UserError(
            f"{source.name} has no captions; prepare it from a folder with captions.jsonl."
        )
    captions = source.captions(np.arange(source.size))
    texts = [*itertools.chain(*captions), ""]
    manifest = TextManifest(
        encoder.name, encoder.sha256, source.size, len(texts) - 1, encoder.max_length,
        encoder.width, source.fingerprint(),
    )  # fmt: skip
    try:
        done = _done(folder, manifest)
        if done < len(texts):
            folder.mkdir(parents=True, exist_ok=True)
            atomic.write(folder / "captions.jsonl", "".join(caption_lines(captions)))
            if not _encode_the_rest(texts, encoder, folder, manifest, done, batch_size):
                return False
            atomic.write(folder / "manifest.json", json.dumps(manifest._asdict(), indent=1))
            (folder / _UNFINISHED).unlink()
    except OSError as error:
        gigabytes = 2e-9 * len(texts) * encoder.max_length * encoder.width
        raise UserError(
            f"{folder} cannot be written to ({error.strerror or error}); text states need a local "
            f"folder with {gigabytes:.3g} GB of free space. Then run the same command again."
        ) from error
    return True


def _done(folder: epath.Path, manifest: TextManifest) -> int:
    """Return the number of captions, with the empty one, whose states are on the disk.

    Raises:
      UserError: the states are of another source or encoder.
    """
    for path in (folder / "manifest.json", folder / _UNFINISHED):
        if path.exists():
            try:
                saved = json.loads(path.read_text())
                done = saved.pop("done", manifest.num_captions + 1)
            except (ValueError, AttributeError):
                saved = None
            if saved != manifest._asdict():
                raise UserError(
                    f"{folder} has the states of another encoder, other captions or another "
                    "version of cdt; remove it and run the same command again."
                )
            return done
    return 0


def _encode_the_rest(
    texts: list[str],
    encoder: TextEncoder,
    folder: epath.Path,
    manifest: TextManifest,
    done: int,
    batch_size: int,
) -> bool:
    """Append the missing states to states.bin and lengths.bin; return False after a signal."""
    total = len(texts)
    progress = Progress(total, done, unit="caption")
    with (
        StopRequest() as stop,
        closing(progress),
        (folder / "states.bin").open("ab") as states_file,
        (folder / "lengths.bin").open("ab") as lengths_file,
    ):
        # An interruption may have left a partial batch at the end of the files.
        states_file.truncate(2 * done * encoder.max_length * encoder.width)
        lengths_file.truncate(4 * done)
        while done < total and not stop.requested:
            batch = texts[done : done + batch_size]
            states, lengths = encoder.encode(batch)
            largest = np.abs(states).max()
            if not largest <= np.finfo(np.float16).max:
                raise UserError(
                    f"a state of '{encoder.name}' is {largest:.3g}, more than the maximum of "
                    "float16; use another text encoder."
                )
            for file, values in (
                (states_file, states.astype("<f2")),
                (lengths_file, lengths.astype("<i4")),
            ):
                file.write(values.tobytes())
                file.flush()
                os.fsync(file.fileno())
            done += len(batch)
            # The states are on the disk by now, so an interruption never skips any.
            atomic.write(folder / _UNFINISHED, json.dumps(manifest._asdict() | {"done": done}))
            progress.update(done)
    return done == total


def define_flags() -> flags.FlagValues:
    """Return the flags of this program, without values."""
    known = flags.FlagValues()
    own: dict[str, Any] = dict(flag_values=known)
    flags.DEFINE_string("data", None, "local folder that cdt.data.prepare wrote", **own)
    flags.DEFINE_string("out", "", "other output folder, such as one of latents", **own)
    flags.DEFINE_string("split", "train", "split to encode", **own)
    flags.DEFINE_string("encoder", None, "name or folder of a text model", **own)
    flags.DEFINE_integer("max_length", 77, "tokens to which captions are cut or padded", 1, **own)
    flags.DEFINE_integer("batch_size", 64, "captions encoded at a time", 1, **own)
    return known


def text_command(argv: list[str]) -> int:
    """Run a command line; return the exit code."""
    console.open_console()
    text = f"{__doc__}\nFlags:\n{flag_list(define_flags())}"
    if (answered := usage.answer(argv, text)) is not None:
        return answered
    try:
        given = parsed(define_flags(), argv)
        if not given.data:
            raise UserError("--data is missing; give the folder that cdt.data.prepare wrote.")
        if not given.encoder:
            raise UserError("--encoder is missing; give the name or the folder of a text model.")
        data, out = (os.path.expanduser(path) for path in (given.data, given.out or given.data))
        if "://" in out:
            raise UserError(
                f"The output folder is '{out}'; text states are memory-mapped, so it must be a "
                "local folder."
            )
        source = prepared(epath.Path(data) / given.split)
        encoder = load_encoder(given.encoder, given.max_length)
        folder = text_folder(epath.Path(out) / given.split)
        if not cache_states(source, encoder, folder, given.batch_size):
            print("cdt: stopped; run the same command again to continue", file=sys.stderr)
            return EXIT_STOPPED
    except UserError as error:
        print(f"cdt: {error}", file=sys.stderr)
        return EXIT_USER_ERROR
    print(
        f"{folder}: captions of {source.size} images, states of {encoder.max_length} x "
        f"{encoder.width}"
    )
    return EXIT_FINISHED


if __name__ == "__main__":
    sys.exit(text_command(sys.argv))
