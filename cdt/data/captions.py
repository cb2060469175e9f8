"""captions.jsonl of prepared data sets: each line is the JSON list of one image's captions."""

import json
from collections.abc import Iterable, Iterator, Sequence

from etils import epath


def caption_lines(captions: Iterable[Sequence[str]]) -> Iterator[str]:
    """Yield the lines of the file; `captions` has one sequence of strings for each image."""
    return (json.dumps(texts) + "\n" for texts in captions)


def read_captions(path: epath.Path, count: int) -> list[tuple[str, ...]]:
    """Return the captions of `count` images, one or more for each.

    Raises:
      OSError: the file cannot be read.
      ValueError: the file has another format, or not `count` lines.
    """
    captions = [json.loads(line) for line in path.read_text().splitlines()]
    for texts in captions:
        if not (isinstance(texts, list) and texts and all(isinstance(text, str) for text in texts)):
            raise ValueError("a line is not a list of captions")
    if len(captions) != count:
        raise ValueError(f"it has captions for {len(captions)} images, not for {count}")
    return [tuple(texts) for texts in captions]
