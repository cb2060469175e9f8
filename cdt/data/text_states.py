"""Cached states of a text encoder, as `python -m cdt.data.text` writes them next to the images.

text/manifest.json   written last; a folder without it is not finished
text/states.bin      float16[M + 1, L, W], the states of each caption; row M is the empty caption,
                     which means "no text" in classifier-free guidance
text/lengths.bin     int32[M + 1], number of states of each caption; the other states are zero
text/captions.jsonl  the M captions of the N examples, see cdt/data/captions.py; samples are drawn
                     for these captions
"""

import json
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from etils import epath

from cdt.data.captions import read_captions
from cdt.errors import UserError


class TextManifest(NamedTuple):
    """Content of manifest.json."""

    encoder: str  # its name
    encoder_sha256: str  # of its weights
    count: int  # type: ignore[assignment]  # N examples; not tuple.count
    num_captions: int  # M
    max_length: int  # L, tokens
    width: int  # W, features of a state
    captions: str  # fingerprint of the images and captions
    version: int = 3  # of this format

    @property
    def encoding(self) -> tuple[str, int, int]:
        """Return the values that must be equal for all states that a model is used with."""
        return self.encoder_sha256, self.max_length, self.width


class TextStates(NamedTuple):
    """The states of one split, memory-mapped."""

    manifest: TextManifest
    states: np.ndarray  # float16[M + 1, L, W]
    lengths: np.ndarray  # int32[M + 1]
    captions: Sequence[tuple[str, ...]]  # N tuples of one or more captions
    first: np.ndarray  # int64[N + 1]: example i has the captions first[i] .. first[i + 1] - 1

    def condition(
        self, indices: np.ndarray, draws: np.ndarray | None = None
    ) -> dict[str, np.ndarray]:
        """Return the text conditioning of some examples.

        Args:
          indices: int64[n].
          draws: uint64[n], random numbers that choose one caption of each example; None: the first.

        Returns:
          {"text": float16[n, L, W], "text_length": int32[n]}.
        """
        rows = self.first[indices]
        if draws is not None:
            counts = self.first[indices + 1] - rows
            rows = rows + (draws % counts.astype(np.uint64)).astype(np.int64)
        return {"text": self.states[rows], "text_length": self.lengths[rows]}

    @property
    def null(self) -> dict[str, np.ndarray]:
        """Return the text conditioning of the empty caption, without the axis [n]."""
        return {"text": self.states[-1], "text_length": self.lengths[-1]}


def text_folder(split: epath.PathLike) -> epath.Path:
    """Return the folder of the states of a prepared split."""
    return epath.Path(split) / "text"


def read_text_states(
    split: epath.PathLike, encoder: str, *, of_latents: bool = False
) -> TextStates:
    """Open the text states of a prepared split or of latents.

    Args:
      split: local folder, such as DIR/train.
      encoder: name of the encoder that the states must be from.
      of_latents: True: the folder has latents. It changes the command in the messages, because the
        captions are with the images.

    Raises:
      UserError: the states are missing, unfinished, damaged or of another encoder.
    """
    folder, split = text_folder(split), epath.Path(split)
    path = folder / "manifest.json"
    data = f"IMAGES --out={split.parent}" if of_latents else split.parent
    command = f"`python -m cdt.data.text --data={data} --split={split.name} --encoder={encoder}`"
    if not path.exists():
        raise UserError(f"{folder} has no finished text states; run {command}.")
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
            f"{folder} is damaged or of another version ({error}); remove it and run {command}."
        ) from error
    if not sound:
        raise UserError(f"{folder} is damaged or of another version; remove it and run {command}.")
    if manifest.encoder != encoder:
        raise UserError(
            f"config.data.text_encoder is '{encoder}', but {folder} has states of "
            f"'{manifest.encoder}'; change the config, or remove the folder and run {command}."
        )
    return TextStates(manifest, states.view(np.ndarray), lengths.view(np.ndarray), captions, first)


def mock_text_states(labels: np.ndarray) -> TextStates:
    """Return random states with the layout of real ones, to try a config in seconds.

    Args:
      labels: int32[N]; each class has its own fixed states, length and caption.

    Returns:
      States with L = 6 and W = 16.
    """
    known = np.append(np.asarray(labels) + 1, 0)  # row 0 of the table is the empty caption
    table = np.random.RandomState(0).standard_normal((known.max() + 1, 6, 16))
    lengths = (1 + known % 6).astype(np.int32)
    inside = np.arange(6) < lengths[:, None]
    states = np.where(inside[..., None], table[known], 0).astype(np.float16)
    manifest = TextManifest("mock", "", len(labels), len(labels), 6, 16, "")
    captions = [(f"class {label}",) for label in labels]
    return TextStates(manifest, states, lengths, captions, _first(captions))


def _first(captions: Sequence[tuple[str, ...]]) -> np.ndarray:
    return np.cumsum([0] + [len(texts) for texts in captions])
