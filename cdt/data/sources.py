"""The type Source, random access to images and labels, and functions that return sources."""

import hashlib
import zipfile
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from etils import epath

from cdt.data.text_states import TextStates
from cdt.errors import UserError
from cdt.files.npz import open_npz


class BadExample(UserError):
    """An example is damaged or too small. The message names it and has no final period."""


class Source(NamedTuple):
    """A split of a data set.

    `labels` is indexed with an integer array. In large data sets this reads them from the disk, so
    index only the examples that are needed.
    """

    name: str
    images: Callable[[np.ndarray], np.ndarray]  # indices int64[n] -> new uint8[n, H, W, C]
    labels: Any | None  # int32[N] in [0, num_classes); None: no labels
    num_classes: int | None  # None: no labels
    shape: tuple[int, int, int]  # (H, W, C) of one image
    size: int  # N
    fingerprint: Callable[[], str]  # () -> SHA-256 (hex) that changes with the data
    classes: tuple[str, ...] | None = None  # class names; None: the classes have no names
    # indices int64[n] -> n tuples of one or more captions
    captions: Callable[[np.ndarray], list[tuple[str, ...]]] | None = None
    text: TextStates | None = None  # a text encoder's states of the captions
    # Latents only: the encoded mirror images by index, as a latent cannot be mirrored.
    mirror_images: Callable[[np.ndarray], np.ndarray] | None = None
    pixels: bool = True  # False: `images` returns float moments, see `moments.latents`
    origin: str | None = None  # latents only: fingerprint of the encoded images

    def condition(
        self, indices: np.ndarray, draws: np.ndarray | None = None
    ) -> dict[str, np.ndarray]:
        """Return the conditioning of some images.

        Args:
          indices: int64[n].
          draws: uint64[n], random numbers that choose one caption of each image; None: the first.

        Returns:
          A dict with "label" int32[n] if there are labels, and with "text" and "text_length" of
          `TextStates.condition` if there are text states.
        """
        label = {} if self.labels is None else {"label": self.labels[indices]}
        return label if self.text is None else label | self.text.condition(indices, draws)


def digits(split: str) -> Source:
    """Return the handwritten digits of scikit-learn's `load_digits`: 8x8x1, 10 classes.

    The 1,797 images are in the order of `numpy.random.RandomState(0).permutation(1797)`, a stream
    that NumPy guarantees. 'train' is the first 1,500, 'test' the other 297. The 17 grey levels
    0..16 are scaled to 0..255.

    Args:
      split: 'train' or 'test'.

    Raises:
      UserError: another split.
    """
    from sklearn.datasets import load_digits

    half = {"train": slice(0, 1500), "test": slice(1500, None)}
    if split not in half:
        raise UserError(f"split is {split!r}; digits has the splits 'train' and 'test'.")
    data = load_digits()
    chosen = np.random.RandomState(0).permutation(len(data.images))[half[split]]
    images = np.rint(data.images[chosen] * (255 / 16)).astype(np.uint8)[..., None]
    return in_memory(f"digits/{split}", images, data.target[chosen].astype(np.int32), 10)


def mock(split: str, image_size: int, channels: int, num_classes: int | None, size: int) -> Source:
    """Return synthetic images with the shape of a real data set, to try a config in seconds.

    Each image is a grating. Its class sets the direction and frequency; phase, contrast and noise
    are random. Example i has class i % num_classes. The same arguments give the same images.

    Args:
      split: 'train', or another name for other random numbers.
      image_size: height and width in pixels.
      channels: C.
      num_classes: None: no labels.
      size: N.
    """
    rng = np.random.RandomState(0 if split == "train" else 1)
    classes = np.arange(size) % (num_classes or 1)
    angle = np.pi * classes / (num_classes or 1)
    waves = 1 + classes % 3
    y, x = np.mgrid[:image_size, :image_size] / image_size
    along = np.cos(angle)[:, None, None] * x + np.sin(angle)[:, None, None] * y
    # One phase for each channel, so that RGB images are coloured.
    phase = rng.uniform(0, 2 * np.pi, (size, 1, 1, channels))
    contrast = rng.uniform(0.5, 1.0, (size, 1, 1, 1))
    grating = np.sin(2 * np.pi * (waves[:, None, None] * along)[..., None] + phase)
    noise = rng.normal(0, 0.05, grating.shape)
    images = np.clip(127.5 + 127.5 * (contrast * grating + noise), 0, 255).astype(np.uint8)
    labels = None if num_classes is None else classes.astype(np.int32)
    return in_memory(f"mock/{split}", images, labels, num_classes)


def npz(path: epath.PathLike, split: str, num_classes: int | None = None) -> Source:
    """Return a source of the arrays in an npz file: `train_images`, `train_labels`, and so on.

    Args:
      path: local or `gs://`; written by `numpy.savez`. MedMNIST's files have this format too.
      split: prefix of the array names. `<split>_images` is uint8[N, H, W, C] or [N, H, W].
        `<split>_labels` is optional, integers [N] or [N, 1].
      num_classes: labels must be below it; None: the largest label plus one.

    Raises:
      UserError: the file cannot be read, an array is missing or has a wrong dtype or shape, the
        numbers of images and labels differ, or a label is out of range.
    """
    images_name, labels_name = f"{split}_images", f"{split}_labels"
    try:
        with epath.Path(path).open("rb") as file, open_npz(file) as arrays:
            found = {name: arrays[name] for name in (images_name, labels_name) if name in arrays}
            names = ", ".join(arrays)
    except FileNotFoundError:
        raise UserError(f"{path} does not exist; give the path of an .npz file.") from None
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise UserError(
            f"{path} cannot be read as an .npz file of plain arrays ({error}); write it with "
            "numpy.savez."
        ) from error
    if images_name not in found:
        raise UserError(
            f"{path} has no array {images_name!r}, only {names}; save the images of split "
            f"{split!r} under that name."
        )
    images = found[images_name]
    if images.dtype != np.uint8 or images.ndim not in (3, 4) or 0 in images.shape:
        raise UserError(
            f"{images_name} in {path} is {images.dtype}{list(images.shape)}; it must be "
            "uint8[N, H, W, C] or uint8[N, H, W], with values 0 to 255."
        )
    if images.ndim == 3:
        images = images[..., None]
    if labels_name not in found:
        return in_memory(f"npz/{split}", images, None, None)
    labels = found[labels_name]
    if labels.ndim == 2 and labels.shape[1] == 1:
        labels = labels[:, 0]
    if labels.dtype.kind not in "iu" or labels.shape != (len(images),):
        raise UserError(
            f"{labels_name} in {path} is {labels.dtype}{list(labels.shape)}; it must have one "
            f"integer for each of the {len(images)} images."
        )
    if num_classes is None:
        num_classes = int(labels.max()) + 1
    if labels.min() < 0 or labels.max() >= num_classes:
        raise UserError(
            f"{labels_name} in {path} has labels from {labels.min()} to {labels.max()}; they must "
            f"be from 0 to {max(num_classes, 1) - 1}."
        )
    return in_memory(f"npz/{split}", images, labels.astype(np.int32), num_classes)


def tfds(name: str, split: str, data_dir: epath.PathLike | None = None) -> Source:
    """Return a source of a TFDS data set in ArrayRecord files, read without TensorFlow.

    Args:
      name: such as 'imagenet_resized/64x64'. It must have a feature `image`, uint8 with a fixed
        shape, and may have a feature `label`.
      split: 'train', 'train[:90%]', ...
      data_dir: folder of the data sets, local or `gs://`; None: the default of TFDS,
        $TFDS_DATA_DIR or ~/tensorflow_datasets.

    Raises:
      UserError: the name or split is unknown, the data set is not prepared as ArrayRecord, or its
        images do not have a fixed shape.
    """
    import tensorflow_datasets

    where = "" if data_dir is None else f" in {data_dir}"
    arguments = f"{name!r}, file_format='array_record'"
    if data_dir is not None:
        arguments += f", data_dir={str(data_dir)!r}"
    # Not the command `tfds build`, which does not start without apache_beam.
    not_prepared = (
        f"data set {name!r} is not prepared as ArrayRecord{where}; run "
        f'`python -c "import tensorflow_datasets as tfds; tfds.builder({arguments})'
        '.download_and_prepare()"`.'
    )
    try:
        builder = tensorflow_datasets.builder(
            name, data_dir=data_dir, file_format="array_record", try_gcs=False
        )
    except tensorflow_datasets.core.DatasetNotFoundError:
        raise UserError(
            f"TFDS has no data set {name!r}{where}; see "
            "https://www.tensorflow.org/datasets/catalog for the names."
        ) from None
    except ValueError as error:  # it is prepared in another file format
        raise UserError(not_prepared) from error
    if not builder.is_prepared():
        raise UserError(not_prepared)
    features = dict(builder.info.features or {})
    image = features.get("image")
    shape = () if image is None else image.shape
    # np_dtype, because `dtype` imports TensorFlow.
    if image is None or len(shape) != 3 or None in shape or image.np_dtype != np.uint8:
        raise UserError(
            f"data set {name!r} has no feature `image` of dtype uint8 and a fixed shape; choose "
            "another data set, such as 'imagenet_resized/64x64'."
        )
    try:
        examples = builder.as_data_source(split)
    except ValueError:
        raise UserError(
            f"data set {name!r} has no split {split!r}; its splits are {list(builder.info.splits)}."
        ) from None

    def images(indices: np.ndarray) -> np.ndarray:
        found = read_records(f"{name}/{split}", examples, indices)
        return np.stack([example["image"] for example in found])

    def fingerprint() -> str:
        # Reading every image would take hours. TFDS changes the version with the data.
        return _sha256(f"{builder.info.full_name} {split} {len(examples)}".encode())

    has_labels = isinstance(features.get("label"), tensorflow_datasets.features.ClassLabel)
    return Source(
        name=f"{name}/{split}",
        images=images,
        labels=_TfdsLabels(builder, split) if has_labels else None,
        num_classes=features["label"].num_classes if has_labels else None,
        shape=tuple(shape),
        size=len(examples),
        fingerprint=fingerprint,
    )


class _TfdsLabels:
    """Labels of a TFDS split, read on demand; the images are not decoded."""

    def __init__(self, builder: Any, split: str):
        from tensorflow_datasets import decode

        self._examples = builder.as_data_source(split, decoders={"image": decode.SkipDecoding()})

    def __len__(self) -> int:
        return len(self._examples)

    def __getitem__(self, indices: np.ndarray) -> np.ndarray:
        examples = read_records("the labels", self._examples, np.asarray(indices))
        return np.array([example["label"] for example in examples], np.int32)


def read_records(name: str, records: Any, indices: np.ndarray) -> list[Any]:
    """Return `records.__getitems__(indices)`.

    Args:
      name: of the data, for the message.
      records: an ArrayRecord or TFDS data source.
      indices: int64[n].

    Raises:
      BadExample: a record cannot be read; it names the first of them.
    """
    try:
        return records.__getitems__(indices.tolist())
    except Exception:  # ArrayRecord and decoders raise RuntimeError, ValueError and others
        for index in indices.tolist():
            try:
                records.__getitems__([index])
            except Exception as error:
                raise BadExample(
                    f"example {index} of {name} cannot be read ({type(error).__name__}: {error})"
                ) from error
        raise


def in_memory(
    name: str, images: np.ndarray, labels: np.ndarray | None, num_classes: int | None
) -> Source:
    """Return a source of arrays in memory: images uint8[N, H, W, C], labels int32[N] or None."""

    def fingerprint() -> str:
        parts: list[bytes | memoryview] = [repr((images.shape, labels is not None)).encode()]
        parts.append(np.ascontiguousarray(images).data)
        if labels is not None:
            parts.append(labels.astype("<i4").data)
        return _sha256(*parts)

    return Source(
        name=name,
        images=lambda indices: images[indices],
        labels=labels,
        num_classes=num_classes,
        shape=images.shape[1:],
        size=len(images),
        fingerprint=fingerprint,
    )


def _sha256(*parts: bytes | memoryview) -> str:
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part)
    return digest.hexdigest()
