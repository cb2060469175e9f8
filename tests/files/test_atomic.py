"""Atomic writes of files."""

import pytest

from cdt.files import atomic


@pytest.mark.parametrize("data", ["löss", "löss".encode()])
def test_text_and_bytes_replace_what_lay_there(tmp_path, data):
    file = tmp_path / "a.json"
    file.write_text("something much longer")
    atomic.write(file, data)
    assert file.read_bytes() == "löss".encode()
    assert list(tmp_path.iterdir()) == [file]


def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch):
    """The disk becomes full: half is written, then the write fails."""
    file = tmp_path / "a.json"
    file.write_text("old")

    def half(path, data):
        with path.open("wb") as stream:
            stream.write(data[: len(data) // 2])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("etils.epath.gpath.PosixGPath.write_bytes", half)
    with pytest.raises(OSError, match="No space left"):
        atomic.write(file, b"new and long")
    assert file.read_text() == "old"
    assert list(tmp_path.iterdir()) == [file]


def test_a_missing_folder_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere"):
        atomic.write(tmp_path / "nowhere" / "a.json", b"x")
