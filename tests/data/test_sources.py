"""Sources: contents, determinism, and one-sentence messages for wrong input."""

import io
import shutil
import subprocess
import sys
import textwrap
from functools import partial

import numpy as np
import pytest

from cdt.data import sources, split_writer
from cdt.data.prepared_format import prepared
from cdt.data.shards import Form
from cdt.errors import UserError


def test_digits_are_the_whole_data_set_split_once():
    from sklearn.datasets import load_digits

    train, test = sources.digits("train"), sources.digits("test")
    assert (train.size, test.size) == (1500, 297)
    assert train.shape == test.shape == (8, 8, 1) and train.num_classes == 10
    images = np.concatenate([s.images(np.arange(s.size)) for s in (train, test)])
    labels = np.concatenate([train.labels, test.labels])
    assert images.dtype == np.uint8 and labels.dtype == np.int32
    assert images.min() == 0 and images.max() == 255 and len(np.unique(images)) == 17
    # The same (image, label) pairs as the original, in another order.
    original = load_digits()
    rows = np.column_stack([np.rint(images.reshape(1797, 64) * (16 / 255)), labels])
    expected = np.column_stack([original.data, original.target])
    assert sorted(rows.tolist()) == sorted(expected.tolist())
    assert np.bincount(test.labels).min() >= 20  # no class is missing from the held-out part


@pytest.mark.parametrize(
    "make", [lambda s: sources.digits(s), lambda s: sources.mock(s, 8, 3, 4, 32)]
)
def test_splits_are_fixed_and_differ(make):
    first, again, other = make("train"), make("train"), make("test")
    assert np.array_equal(first.images(np.arange(9)), again.images(np.arange(9)))
    assert first.fingerprint() == again.fingerprint() != other.fingerprint()
    assert len(first.fingerprint()) == 64


def test_mock_has_the_asked_form_and_depends_on_the_class():
    source = sources.mock("train", image_size=16, channels=3, num_classes=4, size=200)
    images = source.images(np.arange(200))
    assert images.shape == (200, 16, 16, 3) and images.dtype == np.uint8
    assert source.shape == (16, 16, 3) and source.size == 200 and source.num_classes == 4
    assert set(source.labels) == {0, 1, 2, 3}
    # Power spectra are independent of the phase; the nearest class mean of them gives the class.
    spectra = np.abs(np.fft.fft2(images.mean(-1)))[:, :, :]
    means = np.stack([spectra[:100][source.labels[:100] == k].mean(0) for k in range(4)])
    distance = ((spectra[100:, None] - means) ** 2).sum((2, 3))
    assert (distance.argmin(1) == source.labels[100:]).mean() > 0.9


def test_mock_without_classes():
    source = sources.mock("train", 8, 1, None, 5)
    assert source.labels is None and source.num_classes is None
    assert source.images(np.arange(5)).shape == (5, 8, 8, 1)


def test_digits_unknown_split():
    with pytest.raises(UserError, match="split is 'val'"):
        sources.digits("val")


IMAGES = np.random.RandomState(0).randint(0, 256, (6, 4, 5, 3)).astype(np.uint8)
LABELS = np.array([0, 1, 2, 0, 1, 2])


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_npz_reads_arrays(tmp_path, save):
    save(tmp_path / "d.npz", train_images=IMAGES, train_labels=LABELS, test_images=IMAGES[..., 0])
    train = sources.npz(tmp_path / "d.npz", "train")
    assert np.array_equal(train.images(np.array([5, 0])), IMAGES[[5, 0]])
    assert np.array_equal(train.labels, LABELS) and train.labels.dtype == np.int32
    assert (train.num_classes, train.shape, train.size) == (3, (4, 5, 3), 6)
    test = sources.npz(str(tmp_path / "d.npz"), "test")
    assert test.labels is None and test.num_classes is None and test.shape == (4, 5, 1)


def test_npz_takes_column_labels_and_a_number_of_classes(tmp_path):
    np.savez(tmp_path / "d.npz", train_images=IMAGES, train_labels=LABELS[:, None].astype(np.uint8))
    assert sources.npz(tmp_path / "d.npz", "train", num_classes=10).num_classes == 10
    assert np.array_equal(sources.npz(tmp_path / "d.npz", "train").labels, LABELS)


def test_npz_fingerprint_sees_every_change(tmp_path):
    def fingerprint(images, **labels):
        np.savez(tmp_path / "d.npz", train_images=images, **labels)
        return sources.npz(tmp_path / "d.npz", "train").fingerprint()

    changed = IMAGES.copy()
    changed[3, 2, 1, 0] ^= 1
    prints = [
        fingerprint(IMAGES),
        fingerprint(changed),
        fingerprint(IMAGES.reshape(6, 5, 4, 3)),
        fingerprint(IMAGES, train_labels=LABELS),
        fingerprint(IMAGES, train_labels=LABELS[::-1]),
    ]
    assert len(set(prints)) == len(prints)
    assert fingerprint(IMAGES) == prints[0]


@pytest.mark.parametrize(
    "arrays, message",
    [
        (dict(images=IMAGES), "has no array 'train_images', only images"),
        (dict(train_images=IMAGES / 255), r"float64\[6, 4, 5, 3\]; it must be uint8"),
        (dict(train_images=IMAGES[0, 0]), r"uint8\[5, 3\]; it must be uint8"),
        (dict(train_images=IMAGES[:0]), r"uint8\[0, 4, 5, 3\]; it must be uint8"),
        (dict(train_images=IMAGES, train_labels=LABELS[:5]), "one integer for each of the 6"),
        (dict(train_images=IMAGES, train_labels=LABELS * 0.5), "must have one integer for each"),
        (dict(train_images=IMAGES, train_labels=LABELS - 1), "labels from -1 to 1; they must be"),
        (dict(train_images=np.array([{}])), "cannot be read as an .npz file of plain arrays"),
    ],
)
def test_npz_wrong_arrays(tmp_path, arrays, message):
    np.savez(tmp_path / "d.npz", **arrays)
    _one_sentence(message, sources.npz, tmp_path / "d.npz", "train")


def test_npz_label_out_of_range(tmp_path):
    np.savez(tmp_path / "d.npz", train_images=IMAGES, train_labels=LABELS)
    message = "labels from 0 to 2; they must be from 0 to 1"
    _one_sentence(message, sources.npz, tmp_path / "d.npz", "train", num_classes=2)


def test_npz_missing_or_damaged_file(tmp_path):
    path = tmp_path / "d.npz"
    _one_sentence("does not exist; give the path of an .npz file", sources.npz, path, "train")
    _one_sentence("cannot be read", sources.npz, tmp_path, "train")  # a folder
    buffer = io.BytesIO()
    np.savez(buffer, train_images=IMAGES)
    whole = buffer.getvalue()
    np.save(tmp_path / "array.npy", IMAGES)
    flipped = bytearray(whole)
    flipped[300] ^= 1
    bare = (tmp_path / "array.npy").read_bytes()
    for damaged in (b"", b"not a zip", whole[: len(whole) // 2], bytes(flipped), bare):
        path.write_bytes(damaged)
        _one_sentence("cannot be read", sources.npz, path, "train")


def _one_sentence(message, function, *args, **kwargs):
    with pytest.raises(UserError, match=message) as caught:
        function(*args, **kwargs)
    assert "\n" not in str(caught.value)


@pytest.fixture(scope="module")
def tfds_dir(tmp_path_factory):
    """A prepared data set `tiny` (ArrayRecord), and `tiny_records` in TFDS's older format."""
    import tensorflow_datasets as tfds

    class Tiny(tfds.core.GeneratorBasedBuilder):
        VERSION = tfds.core.Version("1.0.0")

        def _info(self):
            features = {
                "image": tfds.features.Image(shape=(4, 5, 3)),
                "label": tfds.features.ClassLabel(num_classes=7),
            }
            return tfds.core.DatasetInfo(
                builder=self, features=tfds.features.FeaturesDict(features)
            )

        def _split_generators(self, dl_manager):
            return {"train": self._generate_examples(12), "test": self._generate_examples(4)}

        def _generate_examples(self, count):
            for i in range(count):
                yield i, {"image": np.full((4, 5, 3), i, np.uint8), "label": i % 7}

    class TinyRecords(Tiny):
        pass

    folder = tmp_path_factory.mktemp("tfds")
    Tiny(data_dir=folder, file_format="array_record").download_and_prepare()
    TinyRecords(data_dir=folder, file_format="tfrecord").download_and_prepare()
    return folder


def test_tfds_reads_images_and_labels(tfds_dir):
    source = sources.tfds("tiny", "train", tfds_dir)
    assert (source.size, source.shape, source.num_classes) == (12, (4, 5, 3), 7)
    images, labels = source.images(np.arange(12)), source.labels[np.arange(12)]
    assert images.dtype == np.uint8 and labels.dtype == np.int32
    # TFDS shuffles when it writes; the first pixel identifies the example.
    order = images[:, 0, 0, 0]
    assert sorted(order) == list(range(12)) and np.array_equal(labels, order % 7)
    assert np.array_equal(source.images(np.array([7, 2])), images[[7, 2]])
    part = sources.tfds("tiny", "train[:25%]", tfds_dir)
    assert part.size == 3 and part.fingerprint() != source.fingerprint()


def test_tfds_reads_without_tensorflow(tfds_dir):
    program = f"""
        import sys
        import numpy as np
        from cdt.data import sources
        source = sources.tfds("tiny", "train", {str(tfds_dir)!r})
        source.images(np.arange(3)), source.labels[np.arange(3)], source.fingerprint()
        assert "tensorflow" not in sys.modules
    """
    subprocess.run([sys.executable, "-c", textwrap.dedent(program)], check=True)


def test_tfds_is_prepared_by_workers(tfds_dir, tmp_path):
    source = sources.tfds("tiny", "train", tfds_dir)
    manifest = split_writer.write_split(
        source,
        lambda indices: (partial(sources.tfds, "tiny", "train", tfds_dir), indices),
        np.arange(12),
        tmp_path / "out",
        Form("memmap", (4, 4, 3)),
        shards=3,
        workers=2,
        settings={},
    )
    ours, every = prepared(tmp_path / "out"), np.arange(12)
    assert (manifest.count, ours.num_classes) == (12, 7)
    assert np.array_equal(ours.images(every), source.images(every)[:, :, :4])  # cropped
    assert np.array_equal(ours.labels, source.labels[every])


def test_tfds_damaged_record_is_named(tfds_dir, tmp_path):
    copy = shutil.copytree(tfds_dir, tmp_path / "tfds")
    path = next(copy.glob("tiny/1.0.0/*train.array_record*"))
    data = bytearray(path.read_bytes())
    data[data.rindex(b"IDAT") + 6] ^= 1
    path.write_bytes(data)
    source = sources.tfds("tiny", "train", copy)
    source.images(np.arange(11))
    for read in (source.images, source.labels.__getitem__):
        with pytest.raises(sources.BadExample, match="example 11 of .* cannot be read"):
            read(np.arange(12))


@pytest.mark.parametrize(
    "name, split, message",
    [
        ("no_such_set", "train", "TFDS has no data set 'no_such_set'"),
        ("tiny", "validation", r"no split 'validation'; its splits are \['train', 'test'\]"),
        ("mnist", "train", r"run `python -c .*tfds.builder\('mnist', .*download_and_prepare"),
        ("tiny_records", "train", "'tiny_records' is not prepared as ArrayRecord"),
    ],
)
def test_tfds_errors(tfds_dir, name, split, message):
    _one_sentence(message, sources.tfds, name, split, tfds_dir)


def test_tfds_without_images(tmp_path):
    import tensorflow_datasets as tfds

    class NoImages(tfds.core.GeneratorBasedBuilder):
        VERSION = tfds.core.Version("1.0.0")

        def _info(self):
            features = tfds.features.FeaturesDict({"text": tfds.features.Text()})
            return tfds.core.DatasetInfo(builder=self, features=features)

        def _split_generators(self, dl_manager):
            return {"train": self._generate_examples()}

        def _generate_examples(self):
            yield 0, {"text": "no picture"}

    NoImages(data_dir=tmp_path, file_format="array_record").download_and_prepare()
    _one_sentence("has no feature `image`", sources.tfds, "no_images", "train", tmp_path)
