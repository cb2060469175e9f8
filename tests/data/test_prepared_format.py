"""Reading of prepared data sets, and the message for each kind of damage."""

import io
import json
import shutil

import numpy as np
import pytest

from cdt.data.prepare import prepare_command
from cdt.data.prepared_format import prepared
from cdt.data.sources import BadExample
from cdt.errors import UserError


@pytest.fixture(scope="module")
def sets(tmp_path_factory):
    """memmap/train and array_record/train: the digits, in two shards."""
    root = tmp_path_factory.mktemp("prepared")
    for form in ("memmap", "array_record"):
        arguments = ["--source=digits", f"--out={root / form}", f"--form={form}", "--shards=2"]
        assert prepare_command(["prepare", *arguments]) == 0
    return root


@pytest.fixture(params=["memmap", "array_record"])
def folder(sets, tmp_path, request):
    """A copy that the test may damage."""
    return shutil.copytree(sets / request.param / "train", tmp_path / "mine" / "train")


def change_manifest(folder, **changes):
    path = folder / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_reads_the_digits(folder):
    from cdt.data.sources import digits

    source, original = prepared(folder), digits("train")
    order = np.random.default_rng(0).permutation(source.size)
    assert np.array_equal(source.images(order), original.images(order))
    assert np.array_equal(source.labels, original.labels) and source.num_classes == 10
    assert source.classes is None and source.captions is None and source.name == "mine/train"


def test_missing_and_other_manifests(folder):
    manifest = folder / "manifest.json"
    for text in ("", "{}", "[1]", manifest.read_text()[:-20]):
        manifest.write_text(text)
        with pytest.raises(UserError, match="manifest.json is damaged or of another version"):
            prepared(folder)
    manifest.unlink()
    with pytest.raises(UserError, match="no prepared .* --out=.*mine --split=train --image_size"):
        prepared(folder)


@pytest.mark.parametrize(
    "change", [{"version": 2}, {"form": "zip"}, {"count": 7}, {"shape": [8, 8]}, {"more": 1}]
)
def test_manifest_that_does_not_fit(folder, change):
    change_manifest(folder, **change)
    with pytest.raises(UserError, match="damaged or of another version"):
        prepared(folder)


def test_missing_and_short_images(folder):
    path = sorted(folder.glob("images*"))[-1]
    data = path.read_bytes()
    if path.name == "images.bin":
        path.write_bytes(data[:-1])
        with pytest.raises(UserError, match="images.bin has 95999 bytes, not 96000; copy it"):
            prepared(folder)
    path.unlink()
    with pytest.raises(UserError, match=f"{path.name} (is missing|has 0 bytes, not 96000)"):
        prepared(folder)


def test_wrong_labels(folder):
    path, good = folder / "labels.npy", np.load(folder / "labels.npy")
    for labels, message in [
        (good[:-1], r"int32\[1499\], not int32\[1500\]"),
        (good.astype(np.int64), r"int64\[1500\]"),
        (good - 1, "has labels -1 to 8, not 0 to 9"),
        (good + 1, "has labels 1 to 10, not 0 to 9"),
    ]:
        np.save(path, labels)
        with pytest.raises(UserError, match=message):
            prepared(folder)
    stream = io.BytesIO()
    absurd = {"descr": "<i4", "fortran_order": False, "shape": (10**12,)}
    np.lib.format.write_array_header_1_0(stream, absurd)
    for content in (b"no labels", b"", path.read_bytes()[:-1], stream.getvalue() + bytes(64)):
        path.write_bytes(content)
        with pytest.raises(UserError, match="cannot be read"):
            prepared(folder)


def test_wrong_captions(folder):
    change_manifest(folder, captions=True)
    for text, message in [
        (None, ".*No such file"),
        ('"abc"\n' * 1500, "a line is not a list of captions"),
        ('["x"]\n', "it has captions for 1 images, not for 1500"),
    ]:
        if text is not None:
            (folder / "captions.jsonl").write_text(text)
        with pytest.raises(UserError, match=f"captions.jsonl is damaged .{message}"):
            prepared(folder)


def test_damaged_records_are_named(sets, tmp_path):
    folder = shutil.copytree(sets / "array_record" / "train", tmp_path / "train")
    path = folder / "images-00001-of-00002.array_record"
    data = bytearray(path.read_bytes())
    data[3000] ^= 1
    path.write_bytes(data)
    source = prepared(folder)
    source.images(np.arange(750))
    with pytest.raises(BadExample, match="example 7.. of .*train cannot be read .RuntimeError"):
        source.images(np.arange(700, 900))
    change_manifest(folder, shape=[8, 7, 1])
    with pytest.raises(BadExample, match="example 3 of .* has 64 bytes, not 56"):
        prepared(folder).images(np.array([3]))


def test_memmap_in_a_bucket(monkeypatch):
    from cdt.data import prepared_format as module

    manifest = module.PreparedManifest("memmap", 1, (1, 1, 1), None, None, False, (1,), "", (), {})
    monkeypatch.setattr(module, "read_manifest", lambda folder: manifest)
    with pytest.raises(UserError, match="cannot be read from a bucket; copy"):
        prepared("gs://bucket/train")
