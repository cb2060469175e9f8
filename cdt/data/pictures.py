"""Decoding of image files to uint8 images of one size, cropped as in ADM."""

import io
import warnings

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

# Limit for one image file: a damaged or hostile header of a few kilobytes can claim billions of
# pixels. The largest cameras make 150 million.
MAX_PIXELS = 200_000_000
Image.MAX_IMAGE_PIXELS = MAX_PIXELS
warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # `open_image` refuses it


class TooLarge(ValueError):
    """An image has more than MAX_PIXELS; the message continues the file's name."""


def open_image(data: bytes) -> Image.Image:
    """Return the image in the bytes of a file, not yet decoded.

    Raises:
      TooLarge: its header claims more than MAX_PIXELS.
    """
    too_large = TooLarge(f"has more than {MAX_PIXELS} pixels, the limit; make it smaller")
    try:
        image = Image.open(io.BytesIO(data))
    except Image.DecompressionBombError:  # above 2 * MAX_PIXELS Pillow refuses it
        raise too_large from None
    if image.width * image.height > MAX_PIXELS:
        raise too_large
    return image


def decode(data: bytes, image_size: int, channels: int, *, upscale: bool = False) -> np.ndarray:
    """Return the image in the bytes of a file (PNG, JPEG, ...), cropped and resized.

    The orientation in the EXIF data is applied first, then `fit`.

    Args:
      data: content of the file.
      image_size, channels, upscale: see `fit`.

    Returns:
      uint8[image_size, image_size, channels].

    Raises:
      ValueError: the image is damaged, or `fit` refuses it. The message continues the file's name.
    """
    try:
        with open_image(data) as image:
            image.load()
            image = ImageOps.exif_transpose(image)
    except TooLarge:
        raise
    except UnidentifiedImageError:  # its own message contains a memory address
        raise ValueError("is not an image file") from None
    except Exception as error:  # decoders raise errors of any type on damaged bytes
        raise ValueError(f"cannot be decoded ({type(error).__name__}: {error})") from error
    return fit(image, image_size, channels, upscale=upscale)


def fit(image: Image.Image, image_size: int, channels: int, *, upscale: bool = False) -> np.ndarray:
    """Convert an image of any size and mode to 8 bits, and crop it by `centre_crop`.

    Transparent parts become white before the image is resized.

    Args:
      image: the decoded image.
      image_size: height and width of the result in pixels.
      channels: 1 (grey) or 3 (RGB).
      upscale: allow images whose shorter side is less than `image_size`.

    Returns:
      uint8[image_size, image_size, channels].

    Raises:
      ValueError: the image is too small, or has 32-bit pixels, whose range is unknown. The message
        continues the file's name.
    """
    if min(image.size) < image_size and not upscale:
        # Refused by default: a model trained on enlarged images learns their blur.
        width, height = image.size
        raise ValueError(f"is {width}x{height} pixels (width x height), smaller than {image_size}")
    if image.mode.startswith("I;16"):  # 16-bit grey: `convert` would clip it instead of scaling
        image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    elif image.mode in ("I", "F"):
        raise ValueError("has 32-bit pixels; save it with 8 or 16 bits")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    pixels = np.asarray(centre_crop(image.convert("L" if channels == 1 else "RGB"), image_size))
    return pixels.reshape(image_size, image_size, channels)


def centre_crop(image: Image.Image, size: int) -> Image.Image:
    """Return the central square of an image, resized to `size` x `size` pixels.

    Both sides are halved by box averaging while the shorter one is at least 2 * size. Bicubic
    resampling then makes the shorter side `size` pixels long, and the longer side is cropped.

    Source: `center_crop_arr` of ADM (Dhariwal & Nichol 2021).
    """
    while min(image.size) >= 2 * size:
        image = image.resize((image.width // 2, image.height // 2), Image.Resampling.BOX)
    scale = size / min(image.size)
    width, height = (round(side * scale) for side in image.size)
    image = image.resize((width, height), Image.Resampling.BICUBIC)
    left, top = (width - size) // 2, (height - size) // 2
    return image.crop((left, top, left + size, top + size))
