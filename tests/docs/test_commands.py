"""Run every command and program of the documentation, except those marked with a reason."""

import json
import re
import sys

import numpy as np
import pytest
from PIL import Image

from cdt.data import emoji
from doc_pages import PAGES, ROOT, Runner, blocks, check_form, problems
from front_door import options_kept
from registrations import forgotten

NAMES = [str(page.relative_to(ROOT)) for page in PAGES]


def photos(folder):
    """A folder of images of two classes."""
    rng = np.random.default_rng(0)
    for i in range(24):
        path = folder / "photos" / ("cat", "dog")[i % 2] / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 255, (72, 80, 3), np.uint8)).save(path)


def damaged_photo(folder):
    """A damaged file in the folder of `photos`."""
    (folder / "photos" / "cat" / "damaged.png").write_bytes(b"\x89PNG")


def emoji_package(folder):
    """The files that npm would unpack."""
    categories = "Flags", "People & Body", "Smileys & Emotion"
    entries = [
        {
            "name": f"E{i}",
            "image": f"{i}.png",
            "category": categories[i % 3],
            "has_img_google": True,
        }
        for i in range(60)
    ]
    images = folder / "package" / emoji.PICTURES
    images.mkdir(parents=True)
    (folder / "package" / "emoji.json").write_text(json.dumps(entries))
    for entry in entries:
        Image.fromarray(np.zeros((64, 64, 3), np.uint8)).save(images / entry["image"])


# Files that a page expects in the reader's folder.
PLACED = {
    "README.md": (photos,),
    "docs/howto/data.md": (photos, damaged_photo),
    "docs/howto/text.md": (emoji_package,),
    "docs/tutorial.md": (emoji_package,),
}


@pytest.fixture(scope="session")
def folder_of_all(tmp_path_factory):
    return tmp_path_factory.mktemp("shared")


@pytest.fixture
def shared(folder_of_all):
    """The folder that all pages share, with its own cache of compiled programs."""
    with options_kept():
        yield folder_of_all


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_page(name, tmp_path, monkeypatch, shared):
    for place in PLACED.get(name, ()):
        place(tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    sys.path_importer_cache.pop(".", None)  # the folder of the page before
    runner, exported = Runner(tmp_path, shared), {}
    with forgotten():
        for block in blocks(ROOT / name):
            if block.language not in ("sh", "python"):
                continue
            try:
                if block.marks:
                    check_form(block, exported)
                else:
                    runner.run(block)
            except (Exception, SystemExit) as error:
                raise AssertionError(f"{block.where}: {error}") from error


@pytest.mark.parametrize("name", NAMES)
def test_the_form_of_the_blocks(name):
    assert not [problem for block in blocks(ROOT / name) for problem in problems(block)]


@pytest.mark.parametrize("name", NAMES)
def test_no_command_is_outside_of_a_fence(name):
    """The test would not collect an indented block."""
    fenced = False
    lines = (ROOT / name).read_text().splitlines()
    for number, (before, line) in enumerate(zip(["", *lines], lines, strict=False), 1):
        fenced ^= line.lstrip().startswith("```")
        indented = not fenced and not before.strip() and re.match(r" {4,}\S|\t", line)
        assert not indented, f"{name}:{number}: fence what is shown: '{line}'"
