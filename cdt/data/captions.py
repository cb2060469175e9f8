"""captions.jsonl in folders of our own: a JSON list of an image's captions a line."""

import json
from collections.abc import Iterable, Iterator, Sequence

from etils import epath


def caption_lines(captions: Iterable[Sequence[str]]) -> Iterator[str]:
    """The lines of such a file, of images in order."""
    return (json.dumps(texts) + "\n" for texts in captions)


def read_captions(path: epath.Path, count: int) -> list[tuple[str, ...]]:
    """The captions of `count` images, one or more of each.

    Raises:
      OSError: the file cannot be read.
      ValueError: it is no such file, or of another number of images; the message says which.
    """
    captions = [json.loads(line) for line in path.read_text().splitlines()]
    for texts in captions:
        if not (isinstance(texts, list) and texts and all(isinstance(text, str) for text in texts)):
            raise ValueError("a line without a list of captions")
    if len(captions) != count:
        raise ValueError(f"captions of {len(captions)} images instead of {count}")
    return [tuple(texts) for texts in captions]
