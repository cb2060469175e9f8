"""Decoding and cropping of image files as in ADM, and refusal of unusable files."""

import io

import numpy as np
import pytest
from PIL import Image

from cdt.data.pictures import centre_crop, decode

RNG = np.random.default_rng(0)
NOISE = RNG.integers(0, 256, (8, 8, 3)).astype(np.uint8)


def encoded(image, kind="png", **options):
    if isinstance(image, np.ndarray):
        image = Image.fromarray(image)
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def box(x):
    return (-0.5 < x) & (x <= 0.5)


def bicubic(x):  # Keys' kernel, a = -1/2
    x = np.abs(x)
    inner, outer = 1 - 2.5 * x**2 + 1.5 * x**3, 2 - 4 * x + 2.5 * x**2 - 0.5 * x**3
    return np.where(x < 1, inner, np.where(x < 2, outer, 0))


def resampling(old, new, kernel):
    """[new, old] weights: the kernel stretched to the wider of the two pixel grids."""
    scale = old / new
    centres = (np.arange(new)[:, None] + 0.5) * scale
    weights = kernel((np.arange(old) + 0.5 - centres) / max(scale, 1))
    return weights / weights.sum(1, keepdims=True)


def resized(pixels, height, width, kernel):
    """Resize columns, then rows, with rounding to whole levels after each, as for 8-bit images."""
    columns = resampling(pixels.shape[1], width, kernel)
    rows = resampling(pixels.shape[0], height, kernel)
    pixels = np.clip(np.floor(np.einsum("xw,hwc->hxc", columns, pixels) + 0.5), 0, 255)
    return np.clip(np.floor(np.einsum("yh,hxc->yxc", rows, pixels) + 0.5), 0, 255)


@pytest.mark.parametrize("height, width", [(64, 50), (47, 100), (20, 17), (8, 8), (131, 67)])
def test_crop_is_adms(height, width):
    """Compare with ADM's steps in float64: halve, resample bicubically, crop."""
    pixels = RNG.integers(0, 256, (height, width, 3)).astype(np.uint8)
    expected, size = pixels.astype(float), 8
    while min(expected.shape[:2]) >= 2 * size:
        expected = resized(expected, expected.shape[0] // 2, expected.shape[1] // 2, box)
    scale = size / min(expected.shape[:2])
    sides = (round(side * scale) for side in expected.shape[:2])
    expected = resized(expected, *sides, bicubic)
    top, left = ((side - size) // 2 for side in expected.shape[:2])
    expected = expected[top : top + size, left : left + size]
    ours = np.asarray(centre_crop(Image.fromarray(pixels), size))
    difference = np.abs(ours - expected)  # Pillow's weights have a fixed point
    assert difference.max() <= 1 and (difference > 0).mean() < 0.01


def test_crop_of_what_fits_moves_no_pixel():
    wide = RNG.integers(0, 256, (8, 13, 3)).astype(np.uint8)
    assert np.array_equal(decode(encoded(wide), 8, 3), wide[:, 2:10])
    assert np.array_equal(decode(encoded(wide.swapaxes(0, 1)), 8, 3), wide.swapaxes(0, 1)[2:10])
    blocks = np.kron(NOISE, np.ones((4, 4, 1), np.uint8))  # halved twice, exactly
    assert np.array_equal(decode(encoded(blocks), 8, 3), NOISE)


def test_channels():
    grey = NOISE[..., 0]
    assert np.array_equal(decode(encoded(grey), 8, 1), grey[..., None])
    assert np.array_equal(decode(encoded(grey), 8, 3), np.repeat(grey[..., None], 3, -1))
    luma = NOISE @ [0.299, 0.587, 0.114]
    assert np.abs(decode(encoded(NOISE), 8, 1)[..., 0] - luma).max() <= 1
    deep = (grey.astype(np.uint16) << 8) + 77  # 16 bits
    assert np.array_equal(decode(encoded(deep), 8, 1), grey[..., None])
    with pytest.raises(ValueError, match="32-bit pixels"):
        decode(encoded(grey.astype(np.float32), "tiff"), 8, 1)


def test_transparent_is_laid_on_white():
    alpha = RNG.integers(0, 256, (8, 8, 1)).astype(np.uint8)
    alpha[0] = 0
    pixels = decode(encoded(np.concatenate([NOISE, alpha], -1)), 8, 3)
    expected = NOISE * (alpha / 255.0) + 255 * (1 - alpha / 255.0)
    assert np.abs(pixels - expected).max() <= 1 and (pixels[0] == 255).all()
    palette = Image.fromarray(NOISE[..., 0] % 4).convert("P")
    pixels = decode(encoded(palette, transparency=2), 8, 3)
    assert np.array_equal((pixels == 255).all(-1), NOISE[..., 0] % 4 == 2)
    # Transparent parts become white before resizing, so hidden colours do not bleed into edges.
    hidden = np.zeros((16, 16, 4), np.uint8)
    assert (decode(encoded(hidden), 8, 3) == 255).all()


@pytest.mark.parametrize("orientation, turn", [(1, 0), (3, 2), (6, 3), (8, 1)])
def test_camera_orientation(orientation, turn):
    exif = Image.Exif()
    exif[0x0112] = orientation
    assert np.array_equal(decode(encoded(NOISE, exif=exif), 8, 3), np.rot90(NOISE, turn))


def test_small_pictures_are_enlarged_only_if_asked():
    data = encoded(NOISE[:6])
    with pytest.raises(ValueError, match="is 8x6 pixels .width x height., smaller than 8"):
        decode(data, 8, 3)
    assert decode(data, 8, 3, upscale=True).shape == (8, 8, 3)


def test_damaged_files():
    png, jpeg = encoded(NOISE), encoded(np.kron(NOISE, np.ones((9, 9, 1), np.uint8)), "jpeg")
    flipped = bytearray(png)
    flipped[60] ^= 1
    for data in (png[:-40], jpeg[: len(jpeg) // 2], bytes(flipped)):
        with pytest.raises(ValueError, match="cannot be decoded"):
            decode(data, 8, 3)
    for data in (b"", b"not a picture"):
        with pytest.raises(ValueError, match="^is not an image file$"):
            decode(data, 8, 3)
