"""Augmentation with conditioning, so that it does not leak into samples.

Images are flipped, scaled, rotated, stretched and shifted. The network gets the parameters of these
transforms as conditioning. Samples are drawn with the conditioning of untransformed images.

The transform resamples images at twice their size: they are upsampled with the wavelet filter sym6
and downsampled with its transpose. Together these two are the identity, so an untransformed image
does not change.

Source: Karras et al. 2022 (EDM), arXiv 2206.00364, appendix F.2.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.ndimage import map_coordinates

# Augmentation labels, the conditioning of the network: flips (2), scale, cos - 1 and sin of the
# angle, stretch along two axes (2), shifts (2). All are zero for an untransformed image.
NUM_LABELS = 9

_SCALE = 2**0.2  # factor at one standard deviation
_STRETCH = 2**0.2  # the same
_SHIFT = 1 / 8  # standard deviation, as a fraction of the image's side

# Low-pass filter of the symlet with six vanishing moments; orthonormal to its shifts by two.
_SYM6 = np.array([
    0.015404109327027373, 0.0034907120842174702, -0.11799011114819057, -0.048311742585633,
    0.4910559419267466, 0.787641141030194, 0.3379294217276218, -0.07263752278646252,
    -0.021060292512300564, 0.04472490177066578, 0.0017677118642428036, -0.007800708325034148,
])  # fmt: skip
# Sample j of the upsampled image is at pixel (j - _CENTRE) / 2.
_CENTRE = float(np.arange(12) @ _SYM6 / _SYM6.sum())
_MARGIN = 3  # pixels beyond each edge that are upsampled too, so that the edges do not change


def make_augment(
    probability: float,
) -> Callable[[jax.Array, jax.Array], tuple[jax.Array, jax.Array]]:
    """Return augment(x0 f32[B, H, W, C], PRNG key) -> (x0 of the same shape, labels f32[B, 9]).

    Args:
      probability: probability of each transform, in [0, 1]; 0.12 for CIFAR-10 and 0.15 for FFHQ in
        the paper. The horizontal flip is an exception: its probability is always 1/2.
    """

    def augment(x0: jax.Array, key: jax.Array) -> tuple[jax.Array, jax.Array]:
        labels, matrix, shift = draw_transforms(key, len(x0), probability)
        flip_x, flip_y = (labels[:, k, None, None, None] > 0 for k in (0, 1))
        x0 = jnp.where(flip_x, x0[:, :, ::-1], x0)
        x0 = jnp.where(flip_y, x0[:, ::-1], x0)
        size = jnp.array(x0.shape[1:3], jnp.float32)
        return jax.vmap(warp)(x0, matrix, shift * size), labels

    return augment


def draw_transforms(
    key: jax.Array, n: int, probability: float
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Draw the transforms of n images: labels f32[n, 9], matrices f32[n, 2, 2], shifts f32[n, 2].

    Pixel p of the new image is the pixel matrix (p - shift) of the old one. Both positions are
    relative to the centre, in the order (row, column). The flips are in the labels only.

    Args:
      key: PRNG key.
      n: number of images.
      probability: probability of each transform, see `make_augment`.

    Returns:
      The labels; the matrices; the shifts, as fractions of the image's sides.

    Source: Karras et al. 2022, table 6.
    """
    keys = jax.random.split(key, 4)
    applied = jax.random.uniform(keys[0], (n, 5)) < probability
    flips = jax.random.bernoulli(keys[1], 0.5, (n, 2)) & jnp.stack(
        [jnp.ones(n, bool), applied[:, 0]], axis=1
    )
    a = jax.random.normal(keys[2], (n, 4))
    angles = jax.random.uniform(keys[3], (n, 2), minval=-jnp.pi, maxval=jnp.pi)

    scale = jnp.where(applied[:, 1], a[:, 0], 0.0)
    angle = jnp.where(applied[:, 2], angles[:, 0], 0.0)
    stretch = jnp.where(applied[:, 3], a[:, 1], 0.0)
    axis = angles[:, 1]
    shift = jnp.where(applied[:, 4, None], a[:, 2:], 0.0)
    parameters = [
        scale, jnp.cos(angle) - 1, jnp.sin(angle),
        stretch * jnp.cos(axis), stretch * jnp.sin(axis), shift[:, 0], shift[:, 1],
    ]  # fmt: skip
    labels = jnp.concatenate([flips, jnp.stack(parameters, axis=1)], axis=1)

    # The image is scaled, rotated, stretched and shifted, in this order. The matrix maps new
    # coordinates to old ones, so it is the product of the inverses.
    factors = _STRETCH ** jnp.stack([-stretch, stretch], axis=1)
    unstretch = jnp.einsum("nij,nj,nkj->nik", _rotation(axis), factors, _rotation(axis))
    matrix = _SCALE ** -scale[:, None, None] * (_rotation(-angle) @ unstretch)
    return labels, matrix, _SHIFT * shift


def warp(x: jax.Array, matrix: jax.Array, shift: jax.Array) -> jax.Array:
    """Return the image [H, W, C] whose pixel p is the pixel matrix (p - shift) of x.

    Positions are relative to the centre, see `draw_transforms`. Beyond its edges x is continued by
    its mirror image.

    Args:
      x: image [H, W, C].
      matrix: f32[2, 2].
      shift: f32[2], in pixels, in the order (row, column).
    """
    height, width, _ = x.shape
    upsampled = jnp.einsum("ih,jw,hwc->ijc", _upsampling(height), _upsampling(width), x)
    sides = [_sample_positions(size) - (size - 1) / 2 for size in (height, width)]
    new = jnp.stack(jnp.meshgrid(*sides, indexing="ij")) - shift[:, None, None]
    old = jnp.einsum("ij,jhw->ihw", matrix, new)
    indices = jnp.stack(
        [_upsampled_index(old[k] + (s - 1) / 2, s) for k, s in enumerate((height, width))]
    )
    resampled = jax.vmap(
        lambda channel: map_coordinates(channel, list(indices), order=1, mode="nearest"), -1, -1
    )(upsampled)
    return jnp.einsum("hi,wj,ijc->hwc", _downsampling(height), _downsampling(width), resampled)


def _rotation(angle: jax.Array) -> jax.Array:
    """Return the rotation matrices f32[n, 2, 2] of angles f32[n]."""
    cos, sin = jnp.cos(angle), jnp.sin(angle)
    return jnp.stack([jnp.stack([cos, -sin], -1), jnp.stack([sin, cos], -1)], -2)


def _sample_positions(size: int) -> np.ndarray:
    """Return the positions, in pixels, of the samples that `_downsampling` takes: [2 size + 10]."""
    return (np.arange(2 * size + 10) - _CENTRE) / 2


def _upsampled_index(position: jax.Array, size: int) -> jax.Array:
    """Convert positions in pixels to indices of `_upsampling`'s samples, mirrored if outside."""
    period = max(2 * (size - 1), 1)
    folded = jnp.abs((position + size - 1) % period - (size - 1))
    inside = (position >= -_MARGIN) & (position <= size - 1 + _MARGIN)
    position = jnp.where(inside, position, folded)
    return 2 * (position + _MARGIN) + _CENTRE - int(_CENTRE)


def _upsampling(size: int) -> np.ndarray:
    """Return the matrix f32[2 (size + 2 margin), size] that upsamples a row, with its margins."""
    matrix = np.zeros((2 * (size + 2 * _MARGIN), size))
    period = max(2 * (size - 1), 1)
    for row in range(len(matrix)):
        j = row + int(_CENTRE) - 2 * _MARGIN
        for tap in range(j % 2, 12, 2):
            pixel = (j - tap) // 2
            folded = abs((pixel + size - 1) % period - (size - 1))
            matrix[row, folded] += np.sqrt(2) * _SYM6[tap]
    return matrix.astype(np.float32)


def _downsampling(size: int) -> np.ndarray:
    """Return the matrix f32[size, 2 size + 10] of the transposed filter, which downsamples."""
    matrix = np.zeros((size, 2 * size + 10))
    for pixel in range(size):
        matrix[pixel, 2 * pixel : 2 * pixel + 12] = _SYM6 / np.sqrt(2)
    return matrix.astype(np.float32)
