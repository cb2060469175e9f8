"""Names and captions of a data set never become paths outside the output folder; no secret is
written."""

import json
import os

import numpy as np
import pytest
from PIL import Image

from cdt.data.folder import list_images
from cdt.data.prepare import prepare_command
from cdt.data.prepared_format import prepared
from cdt.errors import UserError
from host_processes import Processes, training

CLASSES = ["..\\..\\up", "~root", "$(touch made)", "%2e%2e%2f", "<b>"]
NAMES = ["..png", "-rf.png", "line\nbreak.png", "a;touch made;.png", "x" * 200 + ".png"]


def everything(folder):
    return {path: path.lstat().st_mtime_ns for path in folder.rglob("*")}


@pytest.fixture
def pictures(tmp_path):
    image = Image.fromarray(np.zeros((8, 8, 3), np.uint8))
    for kind, name in zip(CLASSES, NAMES, strict=True):
        path = tmp_path / "in" / "train" / kind / name
        path.parent.mkdir(parents=True)
        image.save(tmp_path / "plain.png")
        (tmp_path / "plain.png").rename(path)
    return tmp_path / "in"


def command(root, out, *more):
    return ["prepare", "--source=folder", f"--path={root}", f"--out={out}", "--image_size=8",
            "--channels=3", *more]  # fmt: skip


@pytest.mark.parametrize("form", ["memmap", "array_record"])
def test_prepared_files_have_names_of_our_own(pictures, tmp_path, monkeypatch, form):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    before = everything(tmp_path)
    visible = [name for name in NAMES if not name.startswith(".")]
    assert prepare_command(command(pictures, tmp_path / "out", f"--form={form}", "--shards=2")) == 0
    source = prepared(tmp_path / "out" / "train")
    assert source.size == len(visible) == len(source.classes)
    made = everything(tmp_path).keys() - before.keys()
    assert {path.relative_to(tmp_path).parts[:2] for path in made} == {("out",), ("out", "train")}
    for path in made - {tmp_path / "out", tmp_path / "out" / "train"}:
        assert path.name.replace("-", "").replace(".", "").replace("_", "").isalnum()
    assert {path: at for path, at in everything(tmp_path).items() if path in before} == before


@pytest.mark.parametrize("name", ["../secret.png", "/etc/hostname.png", "a/../../secret.png"])
def test_captions_name_no_picture_outside(tmp_path, name):
    image = Image.fromarray(np.zeros((8, 8, 3), np.uint8))
    image.save(tmp_path / "secret.png")
    (tmp_path / "in").mkdir()
    image.save(tmp_path / "in" / "a.png")
    rows = [{"file_name": name, "caption": "x"}, {"file_name": "a.png", "caption": "x"}]
    (tmp_path / "in" / "captions.jsonl").write_text("\n".join(map(json.dumps, rows)))
    with pytest.raises(UserError, match="images that are not in"):
        list_images(tmp_path / "in")


@pytest.mark.slow
def test_no_secret_of_the_environment_is_written(tmp_path, monkeypatch):
    """A run that logs, saves and fails once writes it to no file and to no terminal."""
    secret = "s3cr3t-0123456789"
    for name in ("HF_TOKEN", "AWS_SECRET_ACCESS_KEY", "WANDB_API_KEY", "MY_PASSWORD"):
        monkeypatch.setenv(name, secret)
    workdir, cache = tmp_path / "run", tmp_path / "cache"
    command = training(workdir, cache, "--config.log.tensorboard=True")
    for mode, code in (("train", 0), ("sample", 0), ("replay", 2)):
        with Processes([*command, f"--mode={mode}"], 1, tmp_path / "output" / mode) as processes:
            assert processes.wait() == [code], processes.err(0)
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert len(files) > 20 and any("tfevents" in path.name for path in files)
    assert os.environ["HF_TOKEN"] == secret
    for path in files:
        assert secret.encode() not in path.read_bytes(), path
