"""Augmentation that does not leak into samples (EDM, Karras et al. 2022, arXiv 2206.00364, F.2).

Images are flipped, scaled, turned, stretched and moved, and the network is told how: it learns of
many more images, and at sampling time it is asked for those that are as they were.

Images are resampled at twice their size between the wavelet sym6 and its transpose, which together
are the identity: what is not transformed stays as it is.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.ndimage import map_coordinates

# What the network is told: flips (2), scale, cos - 1 and sin of the angle, the stretch along two
# axes, the shifts (2). All are zero where nothing was done.
NUM_LABELS = 9

_SCALE = 2**0.2  # standard deviations, as factors
_STRETCH = 2**0.2
_SHIFT = 1 / 8  # of the image's side

# Low-pass filter of the symlet with six vanishing moments: orthonormal to its shifts by two.
_SYM6 = np.array([
    0.015404109327027373, 0.0034907120842174702, -0.11799011114819057, -0.048311742585633,
    0.4910559419267466, 0.787641141030194, 0.3379294217276218, -0.07263752278646252,
    -0.021060292512300564, 0.04472490177066578, 0.0017677118642428036, -0.007800708325034148,
])  # fmt: skip
# Sample j of the doubled image lies at pixel (j - _CENTRE) / 2.
_CENTRE = float(np.arange(12) @ _SYM6 / _SYM6.sum())
_MARGIN = 3  # pixels beyond the edge that are filtered too, so that nothing changes at the edge


def make_augment(
    probability: float,
) -> Callable[[jax.Array, jax.Array], tuple[jax.Array, jax.Array]]:
    """Return augment(x0 f32[B, H, W, C], PRNG key) -> (x0 of that shape, labels f32[B, 9]).

    Args:
      probability: of each transformation but the mirror image, which half of the examples are
        always; 0.12 for CIFAR-10 and 0.15 for FFHQ in the paper.
    """

    def augment(x0: jax.Array, key: jax.Array) -> tuple[jax.Array, jax.Array]:
        labels, matrix, shift = draw(key, len(x0), probability)
        flip_x, flip_y = (labels[:, k, None, None, None] > 0 for k in (0, 1))
        x0 = jnp.where(flip_x, x0[:, :, ::-1], x0)
        x0 = jnp.where(flip_y, x0[:, ::-1], x0)
        size = jnp.array(x0.shape[1:3], jnp.float32)
        return jax.vmap(warp)(x0, matrix, shift * size), labels

    return augment


def draw(key: jax.Array, n: int, probability: float) -> tuple[jax.Array, jax.Array, jax.Array]:
    """(labels f32[n, 9], matrices f32[n, 2, 2], shifts f32[n, 2]) of table 6.

    A pixel p of the new image shows what was at matrix (p - shift), both relative to the centre and
    in the order (row, column); shifts are fractions of the image's sides.
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
    told = [
        scale, jnp.cos(angle) - 1, jnp.sin(angle),
        stretch * jnp.cos(axis), stretch * jnp.sin(axis), shift[:, 0], shift[:, 1],
    ]  # fmt: skip
    labels = jnp.concatenate([flips, jnp.stack(told, axis=1)], axis=1)

    # The image is scaled, turned, stretched and moved in this order, so coordinates go backwards.
    factors = _STRETCH ** jnp.stack([-stretch, stretch], axis=1)
    unstretch = jnp.einsum("nij,nj,nkj->nik", _rotation(axis), factors, _rotation(axis))
    matrix = _SCALE ** -scale[:, None, None] * (_rotation(-angle) @ unstretch)
    return labels, matrix, _SHIFT * shift


def warp(x: jax.Array, matrix: jax.Array, shift: jax.Array) -> jax.Array:
    """The image [H, W, C] whose pixel p shows what was at matrix (p - shift), see `draw`.

    Beyond its edges an image goes on as its mirror image.

    Args:
      shift: in pixels.
    """
    height, width, _ = x.shape
    doubled = jnp.einsum("ih,jw,hwc->ijc", _doubling(height), _doubling(width), x)
    sides = [_positions(size) - (size - 1) / 2 for size in (height, width)]
    new = jnp.stack(jnp.meshgrid(*sides, indexing="ij")) - shift[:, None, None]
    old = jnp.einsum("ij,jhw->ihw", matrix, new)
    found = jnp.stack([_in_doubled(old[k] + (s - 1) / 2, s) for k, s in enumerate((height, width))])
    resampled = jax.vmap(
        lambda channel: map_coordinates(channel, list(found), order=1, mode="nearest"), -1, -1
    )(doubled)
    return jnp.einsum("hi,wj,ijc->hwc", _halving(height), _halving(width), resampled)


def _rotation(angle: jax.Array) -> jax.Array:
    """f32[n, 2, 2] of f32[n]."""
    cos, sin = jnp.cos(angle), jnp.sin(angle)
    return jnp.stack([jnp.stack([cos, -sin], -1), jnp.stack([sin, cos], -1)], -2)


def _positions(size: int) -> np.ndarray:
    """Where, in pixels, the samples lie that `_halving` reads."""
    return (np.arange(2 * size + 10) - _CENTRE) / 2


def _in_doubled(position: jax.Array, size: int) -> jax.Array:
    """Pixel positions -> indices of `_doubling`'s samples, mirrored where they lie outside."""
    period = max(2 * (size - 1), 1)
    folded = jnp.abs((position + size - 1) % period - (size - 1))
    inside = (position >= -_MARGIN) & (position <= size - 1 + _MARGIN)
    position = jnp.where(inside, position, folded)
    return 2 * (position + _MARGIN) + _CENTRE - int(_CENTRE)


def _doubling(size: int) -> np.ndarray:
    """f32[2 (size + 2 margin), size]: twice as many samples, from before the image on."""
    matrix = np.zeros((2 * (size + 2 * _MARGIN), size))
    period = max(2 * (size - 1), 1)
    for row in range(len(matrix)):
        j = row + int(_CENTRE) - 2 * _MARGIN
        for tap in range(j % 2, 12, 2):
            pixel = (j - tap) // 2
            folded = abs((pixel + size - 1) % period - (size - 1))
            matrix[row, folded] += np.sqrt(2) * _SYM6[tap]
    return matrix.astype(np.float32)


def _halving(size: int) -> np.ndarray:
    """f32[size, 2 size + 10]: the transposed filter."""
    matrix = np.zeros((size, 2 * size + 10))
    for pixel in range(size):
        matrix[pixel, 2 * pixel : 2 * pixel + 12] = _SYM6 / np.sqrt(2)
    return matrix.astype(np.float32)
