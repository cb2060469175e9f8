"""Write captions and classes for the npm package emoji-datasource-google.

Usage:
  python -m cdt.data.emoji FOLDER

Example:
  npm pack emoji-datasource-google@16.0.0
  tar xzf emoji-datasource-google-16.0.0.tgz
  python -m cdt.data.emoji package

The example writes package/img/google/64/captions.jsonl, with a caption ("dog
face", "waving hand sign, medium skin tone") and a class (the category) for each
of the 3,786 images. `python -m cdt.data.prepare --source=folder` reads that
folder. Exit codes: 0 finished, 2 wrong input.
"""

import json
import sys
from collections.abc import Iterator
from typing import Any

from etils import epath

from cdt import usage
from cdt.errors import EXIT_FINISHED, EXIT_USER_ERROR, UserError
from cdt.files import atomic
from cdt.monitoring import console

PICTURES = "img/google/64"
# Unicode's names of the Fitzpatrick modifiers.
_TONES = {
    "1F3FB": "light",
    "1F3FC": "medium-light",
    "1F3FD": "medium",
    "1F3FE": "medium-dark",
    "1F3FF": "dark",
}


def captions(emoji: list[dict[str, Any]]) -> Iterator[dict[str, str]]:
    """Yield {"file_name", "caption", "class"} for every image that emoji.json lists for Google."""
    for entry in emoji:
        name, owner = entry["name"].lower(), entry["category"]
        if entry["has_img_google"]:
            yield {"file_name": entry["image"], "caption": name, "class": owner}
        for tones, variation in entry.get("skin_variations", {}).items():
            if variation["has_img_google"]:
                tone = " and ".join(_TONES[code] for code in tones.split("-"))
                caption = f"{name}, {tone} skin tone"
                yield {"file_name": variation["image"], "caption": caption, "class": owner}


def write_captions(package: epath.PathLike) -> int:
    """Write captions.jsonl into the folder of the images, and return the number of captions.

    Raises:
      UserError: the folder is not the unpacked package.
    """
    package = epath.Path(package)
    try:
        rows = list(captions(json.loads((package / "emoji.json").read_text())))
        lines = "".join(json.dumps(row) + "\n" for row in rows)
        atomic.write(package / PICTURES / "captions.jsonl", lines)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(
            f"{package} is not the unpacked npm package emoji-datasource-google ({error!r}); get "
            "it with `npm pack emoji-datasource-google@16.0.0` and unpack it with `tar xzf`."
        ) from error
    return len(rows)


def emoji_command(argv: list[str]) -> int:
    """Run a command line; return the exit code."""
    console.open_console()
    if (answered := usage.answer(argv, __doc__ or "")) is not None:
        return answered
    try:
        if len(argv) != 2:
            raise UserError(
                f"{len(argv) - 1} arguments are given; give one, the folder of the unpacked "
                "package."
            )
        count = write_captions(argv[1])
    except UserError as error:
        print(f"cdt: {error}", file=sys.stderr)
        return EXIT_USER_ERROR
    print(f"{epath.Path(argv[1]) / PICTURES}: {count} captions")
    return EXIT_FINISHED


if __name__ == "__main__":
    sys.exit(emoji_command(sys.argv))
