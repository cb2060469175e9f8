"""Preparation of data sets: interruptions, workers and shards do not change the result."""

import fcntl
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cdt.data import shards, split_writer
from cdt.data.pictures import decode
from cdt.data.prepare import prepare_command
from cdt.data.prepared_format import prepared, read_manifest
from cdt.errors import UserError

RNG = np.random.default_rng(0)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """train/: 23 images of several sizes in 3 classes, without captions."""
    root = tmp_path_factory.mktemp("pictures")
    for i in range(23):
        path = root / "train" / "abc"[i % 3] / f"{i:02d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(RNG.integers(0, 256, (8 + i, 9, 3)).astype(np.uint8)).save(path)
    return root


def command(root, out, *more):
    return [
        "prepare", "--source=folder", f"--path={root}", f"--out={out}", "--image_size=8",
        "--channels=3", *more,
    ]  # fmt: skip


def files(folder):
    return {path.name: path.read_bytes() for path in Path(folder).iterdir()}


def everything(source):
    every = np.arange(source.size)
    labels = None if source.labels is None else source.labels[every].tolist()
    return source.images(every), labels, source.captions and source.captions(every)


@pytest.mark.parametrize("form", ["memmap", "array_record"])
def test_folder_becomes_a_prepared_set(pictures, tmp_path, form, capsys):
    assert (
        prepare_command(
            command(pictures, tmp_path, f"--form={form}", "--shards=4", "--license=mine")
        )
        == 0
    )
    assert "train: 23 images of 8x8x3, 3 classes, sha256" in capsys.readouterr().out
    paths = sorted((pictures / "train").glob("*/*.png"))
    source = prepared(tmp_path / "train")
    images, labels, captions = everything(source)
    assert images.dtype == np.uint8 and images.flags.writeable and captions is None
    expected = [decode(path.read_bytes(), 8, 3) for path in paths]
    assert np.array_equal(images, expected)
    assert labels == ["abc".index(path.parent.name) for path in paths]
    assert source.classes == ("a", "b", "c") and source.num_classes == 3
    assert np.array_equal(source.images(np.array([20, 3, 3])), images[[20, 3, 3]])
    manifest = read_manifest(tmp_path / "train")
    assert (manifest.count, manifest.shape, manifest.skipped) == (23, (8, 8, 3), ())
    assert manifest.settings["licence"] == "mine" and source.fingerprint() == manifest.sha256
    names = {"images.bin"} if form == "memmap" else {shards_name(n) for n in range(4)}
    assert set(files(tmp_path / "train")) == names | {"labels.npy", "manifest.json"}
    # The same command does nothing; another setting is refused; both change no file.
    before = files(tmp_path / "train")
    assert (
        prepare_command(
            command(pictures, tmp_path, f"--form={form}", "--shards=4", "--license=mine")
        )
        == 0
    )
    assert (
        prepare_command(
            command(pictures, tmp_path, f"--form={form}", "--shards=5", "--license=mine")
        )
        == 2
    )
    assert "shards (saved: 4, now: 5)" in capsys.readouterr().err
    assert files(tmp_path / "train") == before


def shards_name(number):
    return f"images-{number:05d}-of-00004.array_record"


def test_hash_depends_only_on_the_examples(pictures, tmp_path):
    """It is independent of form, shards and workers; one pixel, label or caption changes it."""

    def sha256(name, *more):
        assert prepare_command(command(pictures, tmp_path / name, *more)) == 0
        return read_manifest(tmp_path / name / "train").sha256

    same = {
        sha256("one", "--shards=1"),
        sha256("many", "--shards=23", "--form=array_record"),
        sha256("workers", "--shards=5", "--workers=2", "--form=array_record"),
    }
    again = ["--source=prepared", f"--path={tmp_path / 'many'}", f"--out={tmp_path / 'back'}"]
    assert prepare_command(["prepare", *again]) == 0
    same.add(read_manifest(tmp_path / "back" / "train").sha256)
    assert len(same) == 1
    assert (
        files(tmp_path / "back/train")["images.bin"] == files(tmp_path / "one/train")["images.bin"]
    )
    images = prepared(tmp_path / "one" / "train").images(np.arange(23))
    changed = images.copy()
    changed[5, 0, 0, 0] ^= 1
    labels, hashes = np.arange(23) % 3, set()
    for i, arrays in enumerate([(images, labels), (changed, labels), (images, labels[::-1])]):
        np.savez(tmp_path / f"{i}.npz", train_images=arrays[0], train_labels=arrays[1])
        out = tmp_path / f"npz{i}"
        assert (
            prepare_command(["", "--source=npz", f"--path={tmp_path}/{i}.npz", f"--out={out}"]) == 0
        )
        hashes.add(read_manifest(out / "train").sha256)
    assert len(hashes) == 3


def test_arrays_are_resized_and_captions_and_holdout_kept(tmp_path, capsys):
    root = tmp_path / "set"
    root.mkdir()
    with (root / "captions.jsonl").open("w") as file:
        for i in range(10):
            Image.fromarray(np.full((8, 8), i, np.uint8)).save(root / f"{i}.png")
            texts = [f"nümber {i}", f"{i}"]
            row = {"file_name": f"{i}.png", "caption": texts, "class": "ab"[i % 2]}
            file.write(json.dumps(row) + "\n")
    for form in ("memmap", "array_record"):
        out = tmp_path / form
        assert prepare_command(command(root, out, "--holdout=0.2", f"--form={form}")) == 0
        parts = [everything(prepared(out / split)) for split in ("train", "test")]
        assert [len(images) for images, _, _ in parts] == [8, 2]
        for images, labels, captions in parts:
            numbers = images[:, 0, 0, 0].tolist()
            assert labels == [n % 2 for n in numbers] and numbers == sorted(numbers)
            assert captions == [(f"nümber {n}", f"{n}") for n in numbers]
        assert sorted(n for images, _, _ in parts for n in images[:, 0, 0, 0]) == list(range(10))
    assert (
        prepare_command(
            ["", "--source=digits", f"--out={tmp_path}/d", "--channels=3", "--image_size=4"]
        )
        == 0
    )
    assert prepared(tmp_path / "d" / "train").shape == (4, 4, 3)
    assert prepare_command(["", "--source=digits", f"--out={tmp_path}/e", "--image_size=16"]) == 2
    assert "example 0 of digits/train is 8x8 pixels" in capsys.readouterr().err
    # No shard is finished yet, so other settings are allowed.
    assert (
        prepare_command(
            ["", "--source=digits", f"--out={tmp_path}/e", "--image_size=16", "--upscale"]
        )
        == 0
    )


@pytest.mark.parametrize("workers", [1, 2])
def test_bad_pictures_are_named_counted_and_skipped_if_asked(tmp_path, workers, capsys):
    for i in range(8):
        (tmp_path / "train").mkdir(exist_ok=True)
        size = (7, 9) if i == 5 else (8, 8)
        Image.fromarray(np.full(size, i, np.uint8)).save(tmp_path / "train" / f"{i}.png")
    (tmp_path / "train" / "2.png").write_bytes(b"not a picture")
    more = [f"--workers={workers}", "--shards=4"]
    assert prepare_command(command(tmp_path, tmp_path / "out", *more)) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert "train/" in error and "png is" in error and "--on_bad=skip" in error
    with pytest.raises(UserError, match="the preparation of .* is not finished"):
        prepared(tmp_path / "out" / "train")
    # --on_bad=skip keeps the finished shards.
    assert prepare_command(command(tmp_path, tmp_path / "out", *more, "--on_bad=skip")) == 0
    assert "2 images were skipped, the first: " in capsys.readouterr().out
    manifest = read_manifest(tmp_path / "out" / "train")
    assert [line.rpartition("/")[2] for line in manifest.skipped] == [
        "2.png is not an image file",
        "5.png is 9x7 pixels (width x height), smaller than 8",
    ]
    images = prepared(tmp_path / "out" / "train").images(np.arange(6))
    assert images[:, 0, 0, 0].tolist() == [0, 1, 3, 4, 6, 7]


def test_nothing_left(tmp_path, capsys):
    (tmp_path / "train").mkdir()
    (tmp_path / "train" / "2.png").write_bytes(b"not a picture")
    assert prepare_command(command(tmp_path, tmp_path / "out", "--on_bad=skip")) == 2
    assert "all 1 images were skipped" in capsys.readouterr().err


class Killed(BaseException):
    """Not caught by any code of cdt."""


def dying(function, after, half=False):
    """`function` that raises Killed at call number `after`: before it, or (`half`) half-way."""
    calls = 0

    def call(*args):
        nonlocal calls
        calls += 1
        if calls == after:
            if half:
                source, target, _ = args
                target.write(source.read(100))
                target.flush()
            raise Killed
        return function(*args)

    return call


@pytest.mark.parametrize("form", ["memmap", "array_record"])
def test_death_at_any_moment_leaves_the_same_bytes(pictures, tmp_path, monkeypatch, form):
    arguments = ["--shards=4", f"--form={form}"]
    assert prepare_command(command(pictures, tmp_path / "whole", *arguments)) == 0
    whole = files(tmp_path / "whole" / "train")
    moments = [
        (shards, "example_digest", 9, False),  # in the middle of shard 1
        (shards.atomic, "write", 3, False),  # shard 1 written, but not yet marked as finished
        (split_writer, "images_path", 3, False),  # while the shards are moved or joined
        (split_writer.shutil, "copyfileobj", 3, True),  # with half of a shard appended
        (split_writer.np, "save", 1, False),
        (split_writer, "content_hash", 1, False),
        (split_writer, "_clean", 1, False),  # the manifest is written
    ]
    for number, (module, name, after, half) in enumerate(moments):
        if half and form == "array_record":
            continue
        out = tmp_path / str(number)
        with monkeypatch.context() as patch, pytest.raises(Killed):
            patch.setattr(module, name, dying(getattr(module, name), after, half))
            prepare_command(command(pictures, out, *arguments))
        assert prepare_command(command(pictures, out, *arguments)) == 0
        assert files(out / "train") == whole, name


def start(pictures, out, *more):
    arguments = command(pictures, out, *more)[1:]
    return subprocess.Popen(
        [sys.executable, "-m", "cdt.data.prepare", *arguments], stderr=subprocess.PIPE, text=True
    )


def wait_for(condition):
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.fixture(scope="module")
def slow_pictures(tmp_path_factory):
    """train/: images that take seconds to decode; all are links to one file."""
    root = tmp_path_factory.mktemp("slow")
    (root / "train").mkdir()
    Image.effect_noise((600, 600), 50).save(root / "big.png")
    for i in range(120):
        (root / "train" / f"{i:03d}.png").symlink_to(root / "big.png")
    return root


def test_killed_workers_and_parents(slow_pictures, tmp_path):
    more = ["--shards=30", "--workers=2"]
    work = tmp_path / "out" / "train" / ".prepare"

    def shards_done():
        return sorted(path.name for path in work.glob("0*.json"))

    def children(pid):
        return Path(f"/proc/{pid}/task/{pid}/children").read_text().split()

    process = start(slow_pictures, tmp_path / "out", *more)
    wait_for(lambda: len(shards_done()) >= 2)
    workers = children(process.pid)
    assert len(workers) >= 2
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    wait_for(lambda: not any(alive(pid) for pid in workers))
    done = shards_done()
    assert 2 <= len(done) < 30
    with pytest.raises(UserError, match="the preparation of .* is not finished"):
        prepared(tmp_path / "out" / "train")
    times = {name: (work / name).stat().st_mtime_ns for name in done}

    process = start(slow_pictures, tmp_path / "out", *more)  # continues until it gets a signal
    wait_for(lambda: len(shards_done()) > len(done))
    process.send_signal(signal.SIGTERM)
    assert "run the same command again" in process.communicate(timeout=30)[1]
    assert process.returncode == 75 and len(shards_done()) < 30
    assert times == {name: (work / name).stat().st_mtime_ns for name in done}

    process = start(slow_pictures, tmp_path / "out", *more)
    wait_for(lambda: (work / "lock").exists() and len(children(process.pid)) >= 3)
    for pid in children(process.pid)[1:]:  # the first is multiprocessing's resource tracker
        os.kill(int(pid), signal.SIGKILL)
    assert "a worker process was killed" in process.communicate(timeout=30)[1]
    assert process.returncode == 2

    assert prepare_command(command(slow_pictures, tmp_path / "out", *more)) == 0
    images = files(tmp_path / "out" / "train")["images.bin"]
    one = decode((slow_pictures / "big.png").read_bytes(), 8, 3)
    assert images == one.tobytes() * 120


def alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_a_folder_has_one_owner(pictures, tmp_path, capsys):
    work = tmp_path / "train" / ".prepare"
    work.mkdir(parents=True)
    with (work / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert prepare_command(command(pictures, tmp_path)) == 2
    assert "another process is preparing" in capsys.readouterr().err
    (tmp_path / "other" / "train").mkdir(parents=True)
    (tmp_path / "other" / "train" / "thesis.txt").write_text("mine")
    assert prepare_command(command(pictures, tmp_path / "other")) == 2
    assert "contains thesis.txt" in capsys.readouterr().err
    assert files(tmp_path / "other" / "train") == {"thesis.txt": b"mine"}


def test_half_done_belongs_to_its_settings(pictures, tmp_path, monkeypatch, capsys):
    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(shards, "example_digest", dying(shards.example_digest, 9))
        prepare_command(command(pictures, tmp_path, "--shards=4"))
    assert prepare_command([*command(pictures, tmp_path, "--shards=4"), "--channels=1"]) == 2
    assert "channels (saved: 3, now: 1)" in capsys.readouterr().err
    assert prepare_command(command(pictures, tmp_path, "--shards=4")) == 0


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--on_bad=skip"], "--out is missing"),
        (["--out=o"], "--source is missing"),
        (["--out=gs://b/o", "--source=digits"], "copy the folder to the bucket"),
        (["--out=o", "--source=digit"], "digits"),
        (["--out=o", "--source=folder"], "--path is missing"),
        (["--out=o", "--source=folder", "--path=p"], "--image_size or --channels is missing"),
        (["--out=o", "--source=digits", "--channels=2"], "must be 1 (grey) or 3 (RGB)"),
        (["--out=o", "--source=digits", "--worker=2"], "Did you mean: workers"),
        (["--out=o", "--source=digits", "--workers=0"], "workers"),
        (["--out=o", "--source=digits", "more"], "'more' is not a flag"),
        (["--out=o", "--source=digits", "--holdout=0.1", "--split=test"], "--holdout divides"),
        (["--out=o", "--source=digits", "--holdout=0.0001"], "1500 images empty"),
        (["--out=o", "--source=npz", "--path=no.npz"], "no.npz does not exist"),
        (
            ["--out=o", "--source=folder", "--path=p", "--image_size=8", "--channels=3"],
            "p/train does not exist",
        ),
        (["--out=o", "--check"], "o/train contains no prepared data set"),
    ],
)
def test_wrong_command_lines(tmp_path, monkeypatch, capsys, arguments, message):
    monkeypatch.chdir(tmp_path)
    assert prepare_command(["prepare", *arguments]) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_check_and_help(pictures, tmp_path, capsys):
    for form in ("memmap", "array_record"):
        out = tmp_path / form
        assert prepare_command(command(pictures, out, f"--form={form}")) == 0
        assert prepare_command(["prepare", "--check", f"--out={out}"]) == 0
        path = next((out / "train").glob("images*"))
        data = bytearray(path.read_bytes())
        data[1000] ^= 1
        path.write_bytes(data)
        assert prepare_command(["prepare", "--check", f"--out={out}"]) == 2
        words = {"memmap": "hash differs", "array_record": "cannot be read (RuntimeError: Corr"}
        assert words[form] in capsys.readouterr().err
    assert prepare_command(["prepare", "--help"]) == 0
    assert "--on_bad" in capsys.readouterr().out


def test_workers_load_neither_jax_nor_tensorflow():
    program = (
        "import sys, cdt.data.prepare; print(sorted({m.partition('.')[0] for m in sys.modules}))"
    )
    found = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True).stdout
    assert "'numpy'" in found and not {"'jax'", "'tensorflow'"} & set(found.split(", "))
