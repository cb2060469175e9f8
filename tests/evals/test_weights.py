"""Weight files are verified wherever they come from; layers are folded and batched exactly."""

import hashlib
import os

import jax
import numpy as np
import pytest

from cdt.evals.weights import Layer, WeightFile, convolve, fold_batch_norm, in_batches, locate

CONTENT = b"the weights"


@pytest.fixture
def file(tmp_path):
    release = tmp_path / "release" / "net-1234.pth"
    release.parent.mkdir()
    release.write_bytes(CONTENT)
    return WeightFile("net-1234.pth", release.as_uri(), hashlib.sha256(CONTENT).hexdigest())


def test_downloaded_once(file, tmp_path):
    cache = tmp_path / "not" / "yet"
    path = locate(file, cache_dir=cache)
    assert path.read_bytes() == CONTENT and path.parent == cache
    os.remove(tmp_path / "release" / file.name)
    assert locate(file, cache_dir=cache) == path
    assert os.listdir(cache) == [file.name]  # no partial file is left


def test_explicit_path_comes_first(file, tmp_path):
    own = tmp_path / "own.pth"
    own.write_bytes(CONTENT)
    assert os.fspath(locate(file, own, tmp_path / "cache")) == str(own)
    assert not (tmp_path / "cache").exists()


def test_absent_explicit_path_is_not_replaced_by_a_download(file, tmp_path):
    with pytest.raises(ValueError, match="absent.pth does not exist; net-1234.pth can be downl"):
        locate(file, tmp_path / "absent.pth", tmp_path / "cache")
    assert not (tmp_path / "cache").exists()


def test_home_is_expanded(file, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert os.fspath(locate(file)) == str(tmp_path / "home" / ".cache" / "cdt" / file.name)


@pytest.mark.parametrize("given", [True, False])
def test_wrong_content(file, tmp_path, given):
    wrong = tmp_path / "cache" / file.name
    wrong.parent.mkdir()
    wrong.write_bytes(CONTENT[:-1])
    with pytest.raises(ValueError, match="damaged or another file; replace it by") as caught:
        locate(file, wrong if given else None, wrong.parent)
    assert str(wrong) in str(caught.value) and file.url in str(caught.value)
    assert wrong.read_bytes() == CONTENT[:-1]  # it may be the user's: not ours to replace


def test_download_with_wrong_content_leaves_nothing(file, tmp_path):
    (tmp_path / "release" / file.name).write_bytes(b"<html>")
    with pytest.raises(ValueError, match="answered with a file of SHA-256") as caught:
        locate(file, cache_dir=tmp_path / "cache")
    assert str(tmp_path / "cache" / file.name) in str(caught.value)
    assert os.listdir(tmp_path / "cache") == []


def test_no_network(file, tmp_path):
    nowhere = file._replace(url=(tmp_path / "nowhere").as_uri())
    with pytest.raises(ValueError, match="could not be downloaded") as caught:
        locate(nowhere, cache_dir=tmp_path / "cache")
    for part in (file.name, nowhere.url, str(tmp_path / "cache" / file.name)):
        assert part in str(caught.value)
    assert os.listdir(tmp_path / "cache") == []


def random_state(rng, kernel):
    state = {"c.weight": rng.randn(*kernel)}
    state |= {f"n.{x}": rng.randn(kernel[0]) for x in ("weight", "bias", "running_mean")}
    state["n.running_var"] = rng.rand(kernel[0])
    return {name: x.astype(np.float32) for name, x in state.items()}


def test_folded_layer_is_convolution_then_normalisation():
    state = random_state(np.random.RandomState(0), (4, 3, 3, 2))
    x = np.random.RandomState(1).randn(3, 2, 3).astype(np.float32)  # one window, channels last
    folded = fold_batch_norm(state, "c", "n", 1e-3)
    expected = np.einsum("ochw,hwc->o", state["c.weight"].astype(np.float64), x)
    expected = (expected - state["n.running_mean"]) / np.sqrt(state["n.running_var"] + 1e-3)
    expected = expected * state["n.weight"] + state["n.bias"]
    found = convolve(folded, x[None], padding="VALID")
    np.testing.assert_allclose(found[0, 0, 0], expected, rtol=1e-5, atol=1e-5)


def test_folding_names_what_is_missing():
    state = random_state(np.random.RandomState(0), (4, 3, 1, 1))
    del state["n.bias"]
    with pytest.raises(ValueError, match="lack n.bias:"):
        fold_batch_norm(state, "c", "n", 1e-3)


def test_padding_of_stride_two_is_at_the_end():
    """TensorFlow pads an even length by nothing before and by one after, unlike PyTorch."""
    ones = Layer(np.ones((3, 3, 1, 1), np.float32), np.zeros(1, np.float32))
    x = np.arange(4, dtype=np.float32) * np.ones((4, 1), np.float32)
    found = convolve(ones, x[None, :, :, None], stride=2)[0, :, :, 0]
    assert np.array_equal(found, [[9, 15], [6, 10]])


class Toy:
    """Each image's sum and first pixel; counts how often it is traced."""

    def __init__(self):
        self.traces = 0

    def __call__(self, params, images):
        self.traces += 1
        values = images.astype(np.float32)
        return {"sum": params * values.sum(axis=(1, 2, 3)), "first": values[:, 0, 0]}


@pytest.mark.parametrize("batch_size", [1, 8, 11])
def test_batches_of_any_number_of_images(batch_size):
    toy = Toy()
    features = in_batches(toy, np.float32(2), "toy", batch_size)
    assert features.__name__ == "toy"
    images = np.random.RandomState(0).randint(0, 256, (20, 3, 5, 3)).astype(np.uint8)
    for n in (0, 1, 8, 20):
        found = features(images[:n])
        assert found["sum"].dtype == found["first"].dtype == np.float64
        assert np.array_equal(found["sum"], 2.0 * images[:n].sum(axis=(1, 2, 3)))
        assert np.array_equal(found["first"], images[:n, 0, 0])
    assert toy.traces == 1


def test_grey_images_are_repeated():
    grey = np.random.RandomState(0).randint(0, 256, (3, 4, 4, 1)).astype(np.uint8)
    features = in_batches(Toy(), np.float32(1), "toy", 4)
    assert np.array_equal(features(grey)["first"], features(grey.repeat(3, -1))["first"])


def test_every_device_takes_its_share():
    shapes = []

    def network(params, images):
        jax.debug.inspect_array_sharding(images, callback=lambda s: shapes.append(s))
        return images[:, 0, 0, 0]

    in_batches(network, 0, "x", 16)(np.zeros((3, 2, 2, 3), np.uint8))
    assert shapes[0].shard_shape((16, 2, 2, 3)) == (2, 2, 2, 3)


@pytest.mark.parametrize(
    "images", [np.zeros((2, 4, 4, 3)), np.zeros((2, 4, 4, 4), np.uint8), np.zeros((4, 3), np.uint8)]
)
def test_other_images_are_refused(images):
    with pytest.raises(ValueError, match="features are of uint8 images"):
        in_batches(Toy(), np.float32(1), "toy", 4)(images)
