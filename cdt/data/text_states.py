"""Cached states of a text encoder: what `python -m cdt.data.text` writes beside the images.

text/manifest.json   written last: a folder without it is not finished
text/states.bin      float16 [M + 1, L, W], caption by caption; row M is the empty caption's, which
                     stands for "no text" in classifier-free guidance
text/lengths.bin     int32 [M + 1], how many of the L states belong to a caption; others are zero
text/captions.jsonl  the captions, see cdt/data/captions.py: which of the M belong to each of the N
                     examples, and what samples of them are to show, latents' too
"""

import json
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from etils import epath

from cdt.data.captions import read_captions
from cdt.errors import UserError


class TextManifest(NamedTuple):
    """What manifest.json says."""

    encoder: str  # its name
    encoder_sha256: str  # of its parameters
    count: int  # type: ignore[assignment]  # N examples; not tuple.count
    num_captions: int  # M
    max_length: int  # L
    width: int  # W
    captions: str  # fingerprint of the images and captions that were read
    version: int = 3  # of this layout

    @property
    def encoding(self) -> tuple[str, int, int]:
        """What must be the same wherever one model reads states."""
        return self.encoder_sha256, self.max_length, self.width


class TextStates(NamedTuple):
    """The states of one split, read in place."""

    manifest: TextManifest
    states: np.ndarray  # float16 [M + 1, L, W], on disk
    lengths: np.ndarray  # int32 [M + 1]
    captions: Sequence[tuple[str, ...]]  # N, of each example one or more
    first: np.ndarray  # int64 [N + 1]: example i has the captions first[i] .. first[i + 1] - 1

    def condition(
        self, indices: np.ndarray, draws: np.ndarray | None = None
    ) -> dict[str, np.ndarray]:
        """Return the text conditioning of the examples `indices` int64[n].

        It is that of the first caption of each, or of the one that its random number in `draws`
        uint64[n] chooses: "text" float16[n, L, W] and "text_length" int32[n].
        """
        rows = self.first[indices]
        if draws is not None:
            counts = self.first[indices + 1] - rows
            rows = rows + (draws % counts.astype(np.uint64)).astype(np.int64)
        return {"text": self.states[rows], "text_length": self.lengths[rows]}

    @property
    def null(self) -> dict[str, np.ndarray]:
        """The same of the empty caption, without the axis [n]."""
        return {"text": self.states[-1], "text_length": self.lengths[-1]}


def text_folder(split: epath.PathLike) -> epath.Path:
    """Where the states of a prepared split lie."""
    return epath.Path(split) / "text"


def read_text_states(
    split: epath.PathLike, encoder: str, *, of_latents: bool = False
) -> TextStates:
    """The states of a prepared split, or of the latents of one.

    Args:
      split: local folder, such as DIR/train.
      encoder: whose states they must be.
      of_latents: whether the folder holds latents, whose captions are with the images.

    Raises:
      UserError: there are none, with the command that makes them; they are unfinished, damaged, or
        those of another encoder.
    """
    folder, split = text_folder(split), epath.Path(split)
    path = folder / "manifest.json"
    data = f"IMAGES --out={split.parent}" if of_latents else split.parent
    command = f"`python -m cdt.data.text --data={data} --split={split.name} --encoder={encoder}`"
    if not path.exists():
        raise UserError(f"there are no finished text states in {folder}: run {command}")
    try:
        manifest = TextManifest(**json.loads(path.read_text()))
        if manifest.version != TextManifest._field_defaults["version"]:
            raise ValueError(f"its version is {manifest.version}")
        shape = (manifest.num_captions + 1, manifest.max_length, manifest.width)
        states = np.memmap(folder / "states.bin", np.float16, mode="r", shape=shape)
        lengths = np.memmap(folder / "lengths.bin", np.int32, mode="r", shape=shape[:1])
        captions = read_captions(folder / "captions.jsonl", manifest.count)
        first = _first(captions)
        sound = first[-1] == manifest.num_captions and all(
            (folder / name).stat().length == array.nbytes
            for name, array in (("states.bin", states), ("lengths.bin", lengths))
        )
    except (OSError, ValueError, TypeError) as error:
        raise UserError(
            f"{folder} is damaged or of another version ({error}): remove it and run {command}"
        ) from error
    if not sound:
        raise UserError(f"{folder} is damaged or of another version: remove it and run {command}")
    if manifest.encoder != encoder:
        raise UserError(
            f"{folder} holds states of '{manifest.encoder}', but config.data.text_encoder is "
            f"'{encoder}'; change the config, or remove the folder and run {command}"
        )
    return TextStates(manifest, states.view(np.ndarray), lengths.view(np.ndarray), captions, first)


def mock_text_states(labels: np.ndarray) -> TextStates:
    """States with the form of real ones, for trying a config in seconds: L = 6, W = 16.

    Each class of the labels int32[N] has fixed states, a length and a caption of its own.
    """
    known = np.append(np.asarray(labels) + 1, 0)  # the empty caption comes first in the table
    table = np.random.RandomState(0).standard_normal((known.max() + 1, 6, 16))
    lengths = (1 + known % 6).astype(np.int32)
    inside = np.arange(6) < lengths[:, None]
    states = np.where(inside[..., None], table[known], 0).astype(np.float16)
    manifest = TextManifest("mock", "", len(labels), len(labels), 6, 16, "")
    captions = [(f"class {label}",) for label in labels]
    return TextStates(manifest, states, lengths, captions, _first(captions))


def _first(captions: Sequence[tuple[str, ...]]) -> np.ndarray:
    return np.cumsum([0] + [len(texts) for texts in captions])
