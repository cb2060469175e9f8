"""Picture files -> uint8 images of one size, cropped as ADM does."""

import io
import warnings

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

# Of a picture's file; a few kilobytes can claim billions. The largest cameras make 150 million.
MAX_PIXELS = 200_000_000
Image.MAX_IMAGE_PIXELS = MAX_PIXELS
warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # `open_picture` refuses it


class TooLarge(ValueError):
    """A picture of more than MAX_PIXELS; the message goes on from the file's name."""


def open_picture(data: bytes) -> Image.Image:
    """The picture in the bytes of a file, not yet decoded.

    Raises:
      TooLarge: it claims more pixels than MAX_PIXELS.
    """
    too_large = TooLarge(f"has more than {MAX_PIXELS} pixels; make it smaller")
    try:
        image = Image.open(io.BytesIO(data))
    except Image.DecompressionBombError:  # above twice as many Pillow itself refuses
        raise too_large from None
    if image.width * image.height > MAX_PIXELS:
        raise too_large
    return image


def decode(data: bytes, image_size: int, channels: int, *, upscale: bool = False) -> np.ndarray:
    """The picture in the bytes of a file (PNG, JPEG, ...), upright and in its final form.

    The orientation that a camera noted in the EXIF data is applied; for the rest see `fit`.

    Raises:
      ValueError: the bytes are no whole picture, or `fit` refuses it. The message has no subject:
        it goes on from the file's name.
    """
    try:
        with open_picture(data) as image:
            image.load()
            image = ImageOps.exif_transpose(image)
    except TooLarge:
        raise
    except UnidentifiedImageError:  # its own message has an address of memory in it
        raise ValueError("is no picture") from None
    except Exception as error:  # a parser given damaged bytes may raise anything
        raise ValueError(f"cannot be decoded ({type(error).__name__}: {error})") from error
    return fit(image, image_size, channels, upscale=upscale)


def fit(image: Image.Image, image_size: int, channels: int, *, upscale: bool = False) -> np.ndarray:
    """uint8[image_size, image_size, channels] of a picture of any size and kind.

    What is transparent is laid on white, before anything is resized; then the picture becomes grey
    (`channels` 1) or RGB (3), of 8 bits, and is cropped by `centre_crop`.

    Args:
      upscale: allow pictures whose shorter side is less than `image_size`.

    Raises:
      ValueError: a picture too small, or one of 32-bit pixels, whose range is unknown.
    """
    if min(image.size) < image_size and not upscale:
        # Refused unless asked for: a model trained on enlarged pictures learns their blur.
        width, height = image.size
        raise ValueError(f"is {width} pixels wide and {height} high, too small for {image_size}")
    if image.mode.startswith("I;16"):  # 16 bits of grey, which `convert` would clip, not scale
        image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    elif image.mode in ("I", "F"):
        raise ValueError("has pixels of 32 bits: save it with 8 or 16 bits")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    pixels = np.asarray(centre_crop(image.convert("L" if channels == 1 else "RGB"), image_size))
    return pixels.reshape(image_size, image_size, channels)


def centre_crop(image: Image.Image, size: int) -> Image.Image:
    """The central square, `size` x `size`, as in ADM's `center_crop_arr` (Dhariwal & Nichol 2021).

    Sides are halved by averaging while the shorter one is at least 2 * size; then bicubic
    resampling brings the shorter side to `size`, and what stands out of the longer one is cut off.
    """
    while min(image.size) >= 2 * size:
        image = image.resize((image.width // 2, image.height // 2), Image.Resampling.BOX)
    scale = size / min(image.size)
    width, height = (round(side * scale) for side in image.size)
    image = image.resize((width, height), Image.Resampling.BICUBIC)
    left, top = (width - size) // 2, (height - size) // 2
    return image.crop((left, top, left + size, top + size))
