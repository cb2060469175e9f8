"""Folders of images: contents, order, and messages for wrong folders."""

import json

import numpy as np
import pytest
from PIL import Image

from cdt.data.folder import folder, list_images
from cdt.data.sources import BadExample
from cdt.errors import UserError


def picture(path, value, size=(4, 4)):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((*size, 3), value, np.uint8)).save(path)


def test_class_folders(tmp_path):
    names = ["b/2.png", "b/10.png", "a/x/1.PNG", "a/1.jpg", "c c/1.bmp", "a.b/1.png"]
    for value, name in enumerate(names):
        picture(tmp_path / name, value)
    picture(tmp_path / ".hidden" / "1.png", 0)
    (tmp_path / "README.txt").write_text("no picture")
    (tmp_path / "a" / "notes.json").write_text("{}")
    listing = list_images(tmp_path)
    assert listing.classes == ("a", "a.b", "b", "c c")
    assert listing.files == (
        "a/1.jpg",
        "a/x/1.PNG",
        "a.b/1.png",
        "b/10.png",
        "b/2.png",
        "c c/1.bmp",
    )
    source = folder(tmp_path, 4, 3)
    assert (source.size, source.shape, source.num_classes) == (6, (4, 4, 3), 4)
    assert source.labels.tolist() == [0, 0, 1, 2, 2, 3] and source.labels.dtype == np.int32
    images = source.images(np.arange(6))
    assert images.dtype == np.uint8 and images[:, 0, 0, 0].tolist() == [3, 2, 5, 1, 0, 4]
    assert np.array_equal(source.images(np.array([4, 0])), images[[4, 0]])
    part = listing.take(np.array([3, 1]))
    assert part.files == ("b/10.png", "a/x/1.PNG") and part.labels.tolist() == [2, 0]


def test_unconditional_and_linked(tmp_path):
    for value in range(3):
        picture(tmp_path / "pool" / f"{value}.png", value)
    source = folder(tmp_path / "pool", 2, 1)
    assert source.labels is None and source.num_classes is None and source.shape == (2, 2, 1)
    (tmp_path / "linked").mkdir()
    (tmp_path / "linked" / "k").symlink_to(tmp_path / "pool")
    assert list_images(tmp_path / "linked").files == ("k/0.png", "k/1.png", "k/2.png")


CAPTIONS = {"b.png": "a bee", "a/1.png": 'an "apple",\nred', "c.png": "la mer \u2028 bleue"}


CLASSLESS = '{"file_name": "%s", "caption": "x", "class": %s}'


def with_pictures(root):
    for name in CAPTIONS:
        picture(root / name, 0)
    return root


@pytest.mark.parametrize("kind", ["jsonl", "csv"])
@pytest.mark.parametrize("classes", [False, True])
def test_captions(tmp_path, kind, classes):
    rows = [{"file_name": name, "caption": text} for name, text in CAPTIONS.items()]
    if classes:
        rows = [row | {"class": kind} for row, kind in zip(rows, "xyx", strict=True)]
    if kind == "jsonl":
        text = "\n".join(json.dumps(row, ensure_ascii=False) for row in rows) + "\n"
    else:
        quoted = [['"' + v.replace('"', '""') + '"' for v in row.values()] for row in rows]
        text = "\ufeff" + "\r\n".join(",".join(line) for line in [rows[0].keys(), *quoted])
    (with_pictures(tmp_path) / f"captions.{kind}").write_text(text, newline="")
    source = folder(tmp_path, 4, 3)
    assert source.captions(np.array([2, 0])) == [(CAPTIONS["c.png"],), (CAPTIONS["a/1.png"],)]
    assert source.classes == (("x", "y") if classes else None)
    assert (source.labels.tolist() if classes else source.labels) == (
        [1, 0, 0] if classes else None
    )


def test_several_captions_of_a_picture(tmp_path):
    texts = {"a/1.png": ["x", "y"], "b.png": "z", "c.png": ["", "x"]}
    lines = [json.dumps({"file_name": name, "caption": text}) for name, text in texts.items()]
    (with_pictures(tmp_path) / "captions.jsonl").write_text("\n".join(lines))
    source = folder(tmp_path, 4, 3)
    assert source.captions(np.arange(3)) == [("x", "y"), ("z",), ("", "x")]


@pytest.mark.parametrize(
    "lines, message",
    [
        (['{"file_name": "b.png", "caption": []}'], "line 1 of .* the caption a list of texts"),
        (['{"file_name": "b.png", "caption": ["x", 1]}'], "lacks a file_name or a caption"),
        (['{"file_name": "b.png"}'], "line 1 of .* lacks a file_name or a caption"),
        (["", "b.png: a bee"], "line 2 of .* is not a JSON object"),
        (['{"file_name": "b.png", "caption": "x"}'] * 2, "has two lines for b.png"),
        (['{"file_name": "d.png", "caption": "x"}'], "captions for 1 images .* first is d.png"),
        (['{"file_name": "b.png", "caption": "x"}'], "2 images .* no caption .* first is a/1.png"),
        ([CLASSLESS % (name, "null" if name == "c.png" else 1) for name in CAPTIONS], "no class"),
    ],
)
def test_wrong_captions(tmp_path, lines, message):
    (with_pictures(tmp_path) / "captions.jsonl").write_text("\n".join(lines))
    with pytest.raises(UserError, match=message):
        list_images(tmp_path)


def test_wrong_folders(tmp_path):
    with pytest.raises(UserError, match="does not exist"):
        list_images(tmp_path / "nowhere")
    with pytest.raises(UserError, match="contains no image files"):
        list_images(tmp_path)
    picture(tmp_path / "a" / "1.png", 0)
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="class folder .*empty contains no images"):
        list_images(tmp_path)
    picture(tmp_path / "1.png", 0)
    with pytest.raises(UserError, match=r"both images \(1.png, ...\) and folders of images \(a"):
        list_images(tmp_path)


def test_bad_pictures_are_named(tmp_path):
    picture(tmp_path / "1.png", 0)
    picture(tmp_path / "2.png", 0, (3, 4))
    Image.effect_noise((40, 40), 50).save(tmp_path / "3.png")
    (tmp_path / "3.png").write_bytes((tmp_path / "3.png").read_bytes()[:500])
    picture(tmp_path / "4.png", 0)
    source = folder(tmp_path, 4, 3)
    (tmp_path / "4.png").unlink()
    assert source.images(np.array([0])).shape == (1, 4, 4, 3)
    for index, message in [(1, "2.png is 4x3 pixels"), (2, "3.png cannot be dec")]:
        with pytest.raises(BadExample, match=f"{message}.*cdt.data.prepare"):
            source.images(np.array([0, index]))
    with pytest.raises(UserError, match="4.png cannot be read"):
        source.images(np.array([3]))


def test_fingerprint_sees_names_lengths_captions_and_form(tmp_path):
    def fingerprint(size=4):
        return folder(tmp_path, size, 3).fingerprint()

    picture(tmp_path / "a.png", 0)
    prints = [fingerprint(), fingerprint(2)]
    (tmp_path / "a.png").rename(tmp_path / "b.png")
    prints.append(fingerprint())
    picture(tmp_path / "b.png", 0, (50, 90))
    prints.append(fingerprint())
    for caption in "xy":
        row = {"file_name": "b.png", "caption": caption}
        (tmp_path / "captions.jsonl").write_text(json.dumps(row))
        prints.append(fingerprint())
    assert len(set(prints)) == len(prints) and fingerprint() == prints[-1]
