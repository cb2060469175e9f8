"""Sets of images to evaluate: an npz of samples, or a folder."""

import io
import logging
import os
from collections.abc import Iterator

import numpy as np
from etils import epath

from cdt.files.npz import open_npz


def read_images(path: epath.PathLike) -> np.ndarray:
    """Read a set of images from an npz or a folder.

    Files of a folder and its subfolders are read in the order of their names. Files that are no
    images are skipped, with one warning that has their number and the first name.

    Args:
      path: an npz with `arr_0`, as ADM's evaluator expects, or a folder of image files.

    Returns:
      uint8[n, H, W, C], C = 1 or 3.

    Raises:
      ValueError: the path does not exist, there is no image in it, the sizes differ, or the dtype
        is not uint8.
    """
    path = epath.Path(path)
    if path.is_dir():
        return _read_folder(path)
    if not path.exists():
        raise ValueError(f"{path} does not exist; give an npz of samples or a folder of images.")
    try:
        with open_npz(io.BytesIO(path.read_bytes())) as arrays:
            images = arrays["arr_0"]
    except KeyError:
        raise ValueError(
            f"{path} has no array 'arr_0'; save samples with np.savez(file, x)."
        ) from None
    except Exception as error:  # a parser may raise anything for damaged bytes
        raise ValueError(
            f"{path} cannot be read as an npz ({type(error).__name__}); write it again."
        ) from None
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[-1] not in (1, 3):
        raise ValueError(
            f"{path} has samples {images.dtype} {list(images.shape)}; they must be uint8 "
            "[n, H, W, 1 or 3]."
        )
    if len(images) == 0:
        raise ValueError(f"{path} has 0 images; give at least 1.")
    return images


def _read_folder(path: epath.Path) -> np.ndarray:
    from PIL import UnidentifiedImageError

    from cdt.data.pictures import TooLarge, open_image

    images: list[np.ndarray] = []
    skipped: list[str] = []
    for file in _files(path):
        try:
            with open_image(file.read_bytes()) as image:
                grey = image.mode in ("1", "L", "I;16")
                array = np.asarray(image.convert("L" if grey else "RGB"))
        except TooLarge as error:
            raise ValueError(f"{file} {error}") from error
        except (UnidentifiedImageError, OSError, SyntaxError):
            skipped.append(os.fspath(file))
            continue
        if images and array.shape[:2] != images[0].shape[:2]:
            raise ValueError(
                f"{file} is {array.shape[0]}x{array.shape[1]} but the images before it are "
                f"{images[0].shape[0]}x{images[0].shape[1]}; resize them to one size."
            )
        images.append(array)
    if skipped:
        logging.warning(f"Skipped {len(skipped)} files that are not images: {skipped[0]}, ...")
    if not images:
        raise ValueError(f"{path} has no image file that can be read; give another folder.")
    if any(image.ndim == 3 for image in images):  # colour and grey together
        return np.stack([x if x.ndim == 3 else np.repeat(x[..., None], 3, -1) for x in images])
    return np.stack(images)[..., None]


def _files(folder: epath.Path) -> Iterator[epath.Path]:
    for path in sorted(folder.iterdir()):
        if path.is_dir():
            yield from _files(path)
        else:
            yield path
