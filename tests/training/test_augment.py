"""Augmentation: identity without transforms, known transforms of known images, table 6."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.ndimage import map_coordinates

from cdt import from_config
from cdt.errors import UserError
from cdt.modes.train import train
from cdt.training import augment
from cdt.training.augment import draw_transforms, make_augment, warp
from smoke_runs import arrays, smoke

RNG = np.random.default_rng(0)
NONE = jnp.eye(2), jnp.zeros(2)


def smooth(height, width):
    """Return a smooth image, [H, W, 2]."""
    y, x = np.meshgrid(np.arange(height), np.arange(width), indexing="ij")
    waves = [np.sin(0.21 * y + 0.13 * x), np.cos(0.17 * x - 0.1 * y + 1)]
    return np.stack(waves, axis=-1).astype(np.float32)


def test_the_filter_is_a_symlet():
    """Orthonormal to its even shifts; six vanishing moments."""
    taps = augment._SYM6
    for k in range(6):
        assert taps[: 12 - 2 * k] @ taps[2 * k :] == pytest.approx(float(k == 0), abs=1e-11)
    n = np.arange(12)
    for degree in range(6):
        assert (taps * (-1.0) ** n) @ n**degree == pytest.approx(0.0, abs=1e-8)


@pytest.mark.parametrize("shape", [(8, 8, 3), (28, 28, 1), (7, 10, 3), (4, 4, 1)])
def test_without_transforms_the_image_does_not_change(shape):
    x = RNG.standard_normal(shape).astype(np.float32)
    np.testing.assert_allclose(warp(x, *NONE), x, atol=2e-6)


@pytest.mark.parametrize("shift", [(1, 0), (0, -2), (3, 2)])
@pytest.mark.parametrize("kind", ["noise", "smooth"])
def test_shifts_by_whole_pixels(shift, kind):
    """Fine detail is kept, and the mirror image continues the image beyond its edges."""
    noise = RNG.standard_normal((16, 18, 2)).astype(np.float32)
    x = noise if kind == "noise" else smooth(16, 18)
    padded = np.pad(x, ((4, 4), (4, 4), (0, 0)), mode="reflect")
    expected = padded[4 - shift[0] : 20 - shift[0], 4 - shift[1] : 22 - shift[1]]
    found = np.asarray(warp(x, jnp.eye(2), jnp.array(shift, jnp.float32)))
    inner = slice(6, -6), slice(6, -6)
    np.testing.assert_allclose(found[inner], expected[inner], atol=1e-5)
    if kind == "smooth":  # the filter is not symmetric, so the edges differ slightly
        np.testing.assert_allclose(found, expected, atol=0.06)


@pytest.mark.parametrize(
    "matrix",
    [[[0.0, -1.0], [1.0, 0.0]], [[0.8, 0.3], [-0.25, 0.9]], [[1.1, 0.0], [0.0, 0.9]]],
)
def test_linear_maps(matrix):
    """Against splines of order 5 of SciPy, away from the edges."""
    x, matrix, shift = smooth(24, 24), np.array(matrix), np.array([0.7, -0.4])
    p = np.stack(np.meshgrid(np.arange(24), np.arange(24), indexing="ij")).reshape(2, -1)
    old = matrix @ (p - 11.5 - shift[:, None]) + 11.5
    expected = np.stack(
        [map_coordinates(x[..., k], old, order=5, mode="mirror") for k in (0, 1)], -1
    )
    found = np.asarray(warp(x, jnp.float32(matrix), jnp.float32(shift))).reshape(-1, 2)
    inside = ((old > 4) & (old < 19) & (p > 4) & (p < 19)).all(axis=0)
    assert inside.sum() > 100
    np.testing.assert_allclose(found[inside], expected[inside], atol=3e-3)


def compose(labels, sign):
    """Return the inverse of the transform of table 6, as a 3x3 matrix."""
    _, _, a2, cos1, sin, s1, s2, ty, tx = labels
    stretch, axis = sign * np.hypot(s1, s2), np.arctan2(s2, s1)
    angle = np.arctan2(sin, cos1 + 1)

    def rotation(t):
        return np.array([[np.cos(t), -np.sin(t), 0], [np.sin(t), np.cos(t), 0], [0, 0, 1]])

    scale = np.diag([2 ** (0.2 * a2)] * 2 + [1])
    along = np.diag([2 ** (0.2 * stretch), 2 ** (-0.2 * stretch), 1])
    move = np.array([[1, 0, ty / 8], [0, 1, tx / 8], [0, 0, 1]])
    forward = move @ rotation(axis) @ along @ rotation(-axis) @ rotation(angle) @ scale
    return np.linalg.inv(forward)


def test_labels_are_those_of_the_transform():
    labels, matrix, shift = (
        np.asarray(v, np.float64) for v in draw_transforms(jax.random.key(1), 200, 0.7)
    )
    for row, found, moved in zip(labels, matrix, shift, strict=True):
        # Stretches along and across an axis have the same labels, also in the paper.
        expected = [compose(row, sign) for sign in (1, -1)]
        expected = min(expected, key=lambda m: abs(m[:2, :2] - found).max())
        np.testing.assert_allclose(found, expected[:2, :2], atol=1e-5)
        np.testing.assert_allclose(-found @ moved, expected[:2, 2], atol=1e-5)


@pytest.mark.parametrize("probability", [0.0, 0.15, 1.0])
def test_frequency_of_transforms(probability):
    """Within five standard errors; half of the images are flipped horizontally."""
    n = 20_000
    labels = np.asarray(draw_transforms(jax.random.key(2), n, probability)[0])
    assert labels.shape == (n, augment.NUM_LABELS)
    probabilities = [0.5, probability / 2] + [probability] * 4
    applied = labels[:, [0, 1, 2, 4, 5, 7]] != 0
    for fraction, p in zip(applied.mean(axis=0), probabilities, strict=True):
        assert abs(fraction - p) <= 5 * np.sqrt(p * (1 - p) / n)
    if probability == 1.0:
        np.testing.assert_allclose(labels[:, [2, 7, 8]].std(axis=0), 1.0, atol=0.03)
        assert abs(np.corrcoef(labels[:, 2:].T) - np.eye(7)).max() < 0.05
        assert abs(labels[:, 4].mean()) < 0.03 and abs(labels[:, 3].mean() + 1) < 0.03


def test_each_image_of_a_batch_has_its_own_transform():
    x = jnp.asarray(RNG.standard_normal((6, 8, 8, 1)).astype(np.float32))
    out, labels = jax.jit(make_augment(0.0))(x, jax.random.key(0))
    assert set(labels[:, 0].tolist()) == {0.0, 1.0} and not labels[:, 1:].any()
    for image, found, label in zip(x, out, labels, strict=True):
        np.testing.assert_allclose(found, image[:, ::-1] if label[0] else image, atol=2e-6)
    out, labels = jax.jit(make_augment(1.0))(x, jax.random.key(0))
    assert out.shape == x.shape and jnp.isfinite(out).all() and (labels[:, 2] != 0).all()


@pytest.mark.slow
def test_a_run_trains_with_labels_and_samples_without(tmp_path):
    assert train(smoke(**{"train.augment": 0.5}), str(tmp_path)) == 0  # draws samples too
    learned = arrays(tmp_path)["params"]["augment_embed"]["kernel"]
    assert learned.shape == (augment.NUM_LABELS, 32)
    assert (abs(learned).max(axis=1) > 0).all()  # initially zero


def test_labels_of_zeros_and_none_are_the_same():
    model = from_config.model(smoke(**{"train.augment": 0.5}))
    params = jax.jit(model.init)(jax.random.key(0))
    shift = jax.random.normal(jax.random.key(1), (augment.NUM_LABELS, 32))
    params = params | {"augment_embed": {"kernel": shift}}
    params = jax.tree.map(lambda p: p + 0.1, params) | {"augment_embed": {"kernel": shift}}
    x, time = jnp.asarray(RNG.standard_normal((2, 8, 8, 1)), jnp.float32), jnp.array([0.2, 0.7])
    label = {"label": jnp.array([1, 2])}
    apply = jax.jit(model.apply)
    plain = apply(params, x, time, label, None)
    labels = jnp.zeros((2, augment.NUM_LABELS))
    np.testing.assert_array_equal(plain, apply(params, x, time, label | {"augment": labels}, None))
    other = apply(params, x, time, label | {"augment": labels.at[0, 3].set(1.0)}, None)
    assert abs(other - plain)[0].max() > 1e-3 and not abs(other - plain)[1].any()


def test_wrong_augmentation():
    for changes in ({"train.augment": 1.5}, {"train.augment": -0.1}):
        with pytest.raises(UserError, match="config.train.augment is .*must lie in"):
            from_config.model(smoke(**changes))
