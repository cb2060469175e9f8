"""IDX files, written here from their definition: reading, with or without gzip, and refusal."""

import gzip
import struct

import numpy as np
import pytest

from cdt.data.idx import idx
from cdt.errors import UserError

RNG = np.random.default_rng(0)
IMAGES = RNG.integers(0, 256, (7, 5, 4)).astype(np.uint8)
LABELS = np.array([0, 3, 1, 2, 0, 1, 3], np.uint8)


def encoded(array):
    return struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape) + array.tobytes()


def write(folder, images=IMAGES, labels=LABELS, prefix="train", zipped=False):
    suffix, pack = (".gz", gzip.compress) if zipped else ("", bytes)
    (folder / f"{prefix}-images-idx3-ubyte{suffix}").write_bytes(pack(encoded(images)))
    (folder / f"{prefix}-labels-idx1-ubyte{suffix}").write_bytes(pack(encoded(labels)))
    return folder


@pytest.mark.parametrize("zipped", [False, True])
def test_both_splits(tmp_path, zipped):
    write(tmp_path, zipped=zipped)
    write(tmp_path, IMAGES[:3], LABELS[:3], "t10k", zipped=not zipped)
    train, test = idx(tmp_path, "train"), idx(tmp_path, "test")
    assert (train.size, train.shape, train.num_classes) == (7, (5, 4, 1), 4)
    indices = np.array([6, 0, 3])
    np.testing.assert_array_equal(train.images(indices)[..., 0], IMAGES[indices])
    np.testing.assert_array_equal(train.labels[indices], LABELS[indices])
    assert train.labels.dtype == np.int32 and test.size == 3
    assert train.fingerprint() != test.fingerprint()


def test_damaged_and_other_files(tmp_path):
    with pytest.raises(UserError, match="no file train-images-idx3-ubyte"):
        idx(tmp_path, "train")
    with pytest.raises(UserError, match="the splits 'train' and 'test'"):
        idx(tmp_path, "validation")
    write(tmp_path, labels=LABELS[:5])
    with pytest.raises(UserError, match="7 images but 5 labels"):
        idx(tmp_path, "train")
    file = write(tmp_path) / "train-images-idx3-ubyte"
    whole = file.read_bytes()
    for content, words in [
        (whole[:-1], "is damaged: its header promises"),
        (whole[:6], "cannot be read"),
        (b"", "cannot be read"),
        (gzip.compress(whole)[:-9], "cannot be read"),
        (b"\x00\x00\x0d" + whole[3:], "not an IDX file of unsigned bytes"),
        (encoded(LABELS), "in 3 dimensions"),
        (encoded(IMAGES[:0]), "not an IDX file"),
    ]:
        file.write_bytes(content)
        with pytest.raises(UserError, match=words):
            idx(tmp_path, "train")
