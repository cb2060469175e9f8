"""Images to evaluate: npz files, folders, and wrong input."""

import logging

import numpy as np
import pytest
from PIL import Image

from cdt.evals.images import read_images

IMAGES = np.random.default_rng(0).integers(0, 256, (4, 5, 6, 3)).astype(np.uint8)


def folder(path, images, names="abcdefgh"):
    path.mkdir(parents=True, exist_ok=True)
    for name, image in zip(names, images, strict=False):
        Image.fromarray(image.squeeze()).save(path / f"{name}.png")
    return path


def test_an_npz_and_a_folder_give_the_same_images(tmp_path):
    np.savez(tmp_path / "x.npz", IMAGES, np.arange(4))
    np.testing.assert_array_equal(read_images(tmp_path / "x.npz"), IMAGES)
    folder(tmp_path / "a" / "one", IMAGES[:2])
    folder(tmp_path / "a" / "two", IMAGES[2:])
    np.testing.assert_array_equal(read_images(tmp_path / "a"), IMAGES)
    grey = folder(tmp_path / "grey", IMAGES[..., :1])
    np.testing.assert_array_equal(read_images(grey), IMAGES[..., :1])
    mixed = folder(grey, IMAGES[..., :], names="wxyz")
    assert read_images(mixed).shape == (8, 5, 6, 3)


def test_files_that_are_no_images_are_named_and_counted(tmp_path, caplog):
    folder(tmp_path, IMAGES)
    (tmp_path / "notes.txt").write_text("hello")
    (tmp_path / "half.png").write_bytes((tmp_path / "a.png").read_bytes()[:40])
    with caplog.at_level(logging.WARNING):
        assert len(read_images(tmp_path)) == 4
    assert "2 files" in caplog.text and "half.png" in caplog.text


def test_what_cannot_be_evaluated(tmp_path):
    with pytest.raises(ValueError, match="does not exist"):
        read_images(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="no image"):
        read_images(tmp_path / "empty")
    sizes = folder(tmp_path / "sizes", IMAGES[:1])
    folder(sizes, IMAGES[:1, :4], names="b")
    with pytest.raises(ValueError, match="4x6 but the images before it are 5x6"):
        read_images(sizes)
    (tmp_path / "junk.npz").write_bytes(b"junk")
    with pytest.raises(ValueError, match="cannot be read as an npz"):
        read_images(tmp_path / "junk.npz")
    for name, array, words in [
        ("floats", np.full((2, 4, 4, 3), np.nan), "float64"),
        ("flat", np.zeros((2, 4), np.uint8), "uint8"),
        ("none", np.zeros((0, 4, 4, 3), np.uint8), "0 images"),
    ]:
        np.savez(tmp_path / f"{name}.npz", array)
        with pytest.raises(ValueError, match=words):
            read_images(tmp_path / f"{name}.npz")
    np.savez(tmp_path / "named.npz", images=IMAGES)
    with pytest.raises(ValueError, match="arr_0"):
        read_images(tmp_path / "named.npz")
