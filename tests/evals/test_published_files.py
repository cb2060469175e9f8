"""Weight files are verified, whether given, cached or downloaded."""

import hashlib
import os

import pytest

from cdt.evals.published_files import WeightFile, locate

CONTENT = b"the weights"


@pytest.fixture
def file(tmp_path):
    release = tmp_path / "release" / "net-1234.pth"
    release.parent.mkdir()
    release.write_bytes(CONTENT)
    return WeightFile("net-1234.pth", release.as_uri(), hashlib.sha256(CONTENT).hexdigest())


def test_downloaded_once(file, tmp_path):
    cache = tmp_path / "not" / "yet"
    path = locate(file, cache_dir=cache)
    assert path.read_bytes() == CONTENT and path.parent == cache
    os.remove(tmp_path / "release" / file.name)
    assert locate(file, cache_dir=cache) == path
    assert os.listdir(cache) == [file.name]  # no partial file is left


def test_explicit_path_comes_first(file, tmp_path):
    own = tmp_path / "own.pth"
    own.write_bytes(CONTENT)
    assert os.fspath(locate(file, own, tmp_path / "cache")) == str(own)
    assert not (tmp_path / "cache").exists()


def test_absent_explicit_path_is_not_replaced_by_a_download(file, tmp_path):
    with pytest.raises(ValueError, match="absent.pth does not exist; download net-1234.pth from"):
        locate(file, tmp_path / "absent.pth", tmp_path / "cache")
    assert not (tmp_path / "cache").exists()


def test_home_is_expanded(file, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert os.fspath(locate(file)) == str(tmp_path / "home" / ".cache" / "cdt" / file.name)


@pytest.mark.parametrize("given", [True, False])
def test_wrong_content(file, tmp_path, given):
    wrong = tmp_path / "cache" / file.name
    wrong.parent.mkdir()
    wrong.write_bytes(CONTENT[:-1])
    with pytest.raises(ValueError, match="damaged or another file; replace it with") as caught:
        locate(file, wrong if given else None, wrong.parent)
    assert str(wrong) in str(caught.value) and file.url in str(caught.value)
    assert wrong.read_bytes() == CONTENT[:-1]  # it may be the user's, so it is not replaced


def test_download_with_wrong_content_leaves_nothing(file, tmp_path):
    (tmp_path / "release" / file.name).write_bytes(b"<html>")
    with pytest.raises(ValueError, match="returned a file with SHA-256") as caught:
        locate(file, cache_dir=tmp_path / "cache")
    assert str(tmp_path / "cache" / file.name) in str(caught.value)
    assert os.listdir(tmp_path / "cache") == []


def test_no_network(file, tmp_path):
    nowhere = file._replace(url=(tmp_path / "nowhere").as_uri())
    with pytest.raises(ValueError, match="could not be downloaded") as caught:
        locate(nowhere, cache_dir=tmp_path / "cache")
    for part in (file.name, nowhere.url, str(tmp_path / "cache" / file.name)):
        assert part in str(caught.value)
    assert os.listdir(tmp_path / "cache") == []
