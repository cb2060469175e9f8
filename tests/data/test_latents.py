"""Latents of a data set: encoding, resuming after a kill, refusal of wrong ones, training.

The autoencoder is small and has random weights.
"""

import io
import json
import os
from pathlib import Path

import jax
import numpy as np
import pytest
from PIL import Image

from autoencoder_files import FACTOR, TINY, write_autoencoder
from cdt import from_config
from cdt.data import latents, moments, pipeline, prepare, text
from cdt.data.prepared_format import prepared as prepared_images
from cdt.data.text_encoder import TextEncoder
from cdt.diffusion.latent_scaling import constant_scale, edm2_whitening, encoder_input
from cdt.errors import UserError
from cdt.files.safetensors import read_tensors, sha256
from cdt.interop.autoencoder_files import autoencoder_of, autoencoder_params
from cdt.modes.evaluate import evaluate
from cdt.modes.sample import sample
from cdt.modes.train import train
from cdt.monitoring.writers import read_history
from cdt.workdir.identity import identity
from front_door import cdt
from smoke_runs import smoke

ROOT = Path(__file__).parents[2]
SIDE, BLOCK = (
    8,
    192,
)  # the 512 training images of the mock data are three blocks; the last one is short


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    return write_autoencoder(tmp_path_factory.mktemp("autoencoder"))


def image_config(weights, **overrides):
    config = smoke()
    config.data.name, config.data.image_size, config.data.channels = "mock", SIDE, 3
    config.data.flip = True
    config.latents.weights, config.latents.batch_size = os.fspath(weights), 64
    config.update_from_flattened_dict(overrides)
    return config


def latent_config(weights, folder, **overrides):
    config = image_config(weights)
    config.data.name, config.data.path = "latents", os.fspath(folder)
    config.data.image_size, config.data.channels = SIDE // FACTOR, 4
    config.update_from_flattened_dict(overrides)
    return config


@pytest.fixture(scope="module")
def prepared(weights, tmp_path_factory):
    """A finished folder; tests must not change it."""
    folder = tmp_path_factory.mktemp("prepared")
    assert latents.encode_data_set(image_config(weights), folder, block_size=BLOCK) == 0
    return folder


def direct(weights, images, scaling):
    """Mean and standard deviation directly from the network, in one batch on one device."""
    network = autoencoder_of(TINY)
    variables = {"params": autoencoder_params(network, read_tensors(weights))}
    found = jax.jit(lambda x: network.apply(variables, x, method="encode"))(
        encoder_input(scaling, images)
    )
    return np.concatenate([found.mean, np.exp(0.5 * found.log_variance)], axis=-1)


def test_both_splits_and_mirror_images(weights, prepared):
    assert len(jax.local_devices()) == 8
    source, held_out = from_config.data(latent_config(weights, prepared))
    images, held_out_images = from_config.data(image_config(weights))
    assert source.shape == (SIDE // FACTOR, SIDE // FACTOR, 4) and not source.pixels
    assert (source.size, held_out.size) == (512, 128) and source.num_classes == 10
    np.testing.assert_array_equal(source.labels, images.labels)
    indices = np.array([511, 3, 192, 191])
    pixels = images.images(indices)
    for found, expected in [
        (source.images(indices), pixels),
        (source.mirror_images(indices), pixels[:, :, ::-1]),
        (held_out.images(indices % 128), held_out_images.images(indices % 128)),
    ]:
        assert found.dtype == np.float16 and found.shape == (4, 4, 4, 8)
        exact = direct(weights, expected, constant_scale())
        # float16 has 11 significant bits; the error of the network is 1e-6.
        np.testing.assert_allclose(found, exact, rtol=2**-11 + 1e-5, atol=1e-5)
    assert held_out.mirror_images is None
    assert len({source.fingerprint(), held_out.fingerprint()}) == 2


def test_manifest_says_what_the_latents_are(weights, prepared):
    manifest = json.loads((prepared / "train" / "manifest.json").read_text())
    assert manifest["complete"] is True and manifest["count"] == 512
    assert manifest["shape"] == [4, 4, 4] and manifest["dtype"] == "float16"
    assert manifest["num_classes"] == 10 and manifest["mirrored"] is True
    assert manifest["source"] == "mock/train" and manifest["autoencoder"] == sha256(weights)
    assert manifest["scaling"]["scale"] == [0.18215]


def test_batches_take_mirror_images_by_chance(weights, prepared):
    source, _ = from_config.data(latent_config(weights, prepared))
    options = dict(seed=3, batch_size=64)
    plain, flipped = (
        pipeline.make_batch(source, flip=flip, **options)(0)["image"] for flip in (False, True)
    )
    turned = np.any(plain != flipped, axis=(1, 2, 3))
    assert 16 < turned.sum() < 48
    both = moments.DTYPE.type(np.load(prepared / "train" / "moments.npy"))
    rows = {pair[0].tobytes(): pair[1].tobytes() for pair in both}
    for i in range(64):
        stored = plain[i].tobytes()
        assert flipped[i].tobytes() == (rows[stored] if turned[i] else stored)


class Killed(BaseException):
    """Not caught by any code, like a SIGKILL."""


def contents(folder):
    return {file.name: file.read_bytes() for file in folder.iterdir()}


@pytest.mark.parametrize("where", ["encode", "store", "manifest"])
def test_a_killed_run_goes_on_with_the_block_it_was_in(
    weights, prepared, tmp_path, monkeypatch, where
):
    encoded, calls, alive = [], 0, False
    encoder = from_config.encoder(image_config(weights))

    def counted(images):
        encoded.append(len(images))
        if where == "encode" and len(encoded) == 4 and not alive:  # two views a block
            raise Killed
        return encoder(images)

    def dying(function):
        def second_time(*arguments):
            nonlocal calls
            calls += 1
            if calls == 3:  # two writes are for the first block, or before it
                raise Killed
            return function(*arguments)

        return second_time

    monkeypatch.setattr(from_config, "encoder", lambda config: counted)
    with monkeypatch.context() as patch, pytest.raises(Killed):
        if where == "store":
            patch.setattr(moments, "_store", dying(moments._store))
        if where == "manifest":
            patch.setattr(moments.atomic, "write", dying(moments.atomic.write))
        latents.encode_data_set(image_config(weights), tmp_path, block_size=BLOCK)
    with pytest.raises(UserError, match="not complete .1 of 3 blocks"):
        from_config.data(latent_config(weights, tmp_path))
    encoded.clear()
    alive = True
    assert (
        latents.encode_data_set(image_config(weights), tmp_path) == 0
    )  # keeps the folder's own blocks
    assert encoded == [192, 192, 128, 128, 128]  # mirror images of the training split only
    for split in ("train", "test"):
        assert contents(tmp_path / split).keys() == contents(prepared / split).keys()
    assert contents(tmp_path / "train") == contents(prepared / "train")
    encoded.clear()
    assert latents.encode_data_set(image_config(weights), tmp_path) == 0 and not encoded


def copied(prepared, folder, change=lambda manifest: manifest):
    """A copy of the training split with a changed manifest."""
    target = folder / "train"
    target.mkdir()
    for name, content in contents(prepared / "train").items():
        (target / name).write_bytes(content)
    manifest = change(json.loads((target / "manifest.json").read_text()))
    (target / "manifest.json").write_text(json.dumps(manifest))
    return target


def one_sentence(words, function, *args, **kwargs):
    with pytest.raises(UserError, match=words) as caught:
        function(*args, **kwargs)
    assert "\n" not in str(caught.value)


def test_latents_of_another_autoencoder_or_scale_are_refused(weights, prepared, tmp_path):
    other = write_autoencoder(tmp_path, seed=1)
    words = f"another autoencoder .saved: '{sha256(weights)}', now: '{sha256(other)}'"
    one_sentence(words, from_config.data, latent_config(other, prepared))
    for overrides in ({"latents.scale": 0.2}, {"latents.scaling": "edm2"}):
        config = latent_config(weights, prepared, **overrides)
        one_sentence("another scaling", from_config.data, config)
    # Continuing with them is refused too.
    one_sentence("another autoencoder", latents.encode_data_set, image_config(other), prepared)
    config = image_config(weights, **{"latents.scaling": "edm2"})
    one_sentence("another scaling", latents.encode_data_set, config, prepared)
    config = image_config(weights, **{"model.num_classes": 4})
    one_sentence("another source_fingerprint", latents.encode_data_set, config, prepared)
    config = image_config(weights, **{"data.flip": False})
    one_sentence("another mirrored", latents.encode_data_set, config, prepared)


def npy_header(shape):
    stream = io.BytesIO()
    header = {"descr": "<i4", "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(stream, header)
    return stream.getvalue()


def test_damaged_or_missing_latents_are_refused(weights, prepared, tmp_path):
    scaling = from_config.scaling_record(image_config(weights))
    arguments = tmp_path, "train", sha256(weights), scaling
    one_sentence("contains no latents; .*cdt.data.latents", moments.latents, *arguments)
    target = copied(prepared, tmp_path)
    assert moments.latents(*arguments).size == 512
    whole = contents(target)
    listed = json.loads(whole["manifest.json"])
    for name, content, words in [
        ("moments.npy", whole["moments.npy"][:-1], "moments.npy is damaged"),
        ("moments.npy", b"", "moments.npy is damaged"),
        ("labels.npy", whole["labels.npy"][:-1], "labels.npy is damaged"),
        ("labels.npy", npy_header((10**12,)), "labels.npy is damaged"),
        ("labels.npy", npy_header((2**70,)), "labels.npy is damaged"),
        ("labels.npy", whole["moments.npy"], "labels.npy is damaged.*it contains float16"),
        ("manifest.json", whole["manifest.json"][:100], "manifest.json is damaged"),
        ("manifest.json", b"[]", "manifest.json is damaged"),
        ("manifest.json", json.dumps(listed | {"schema": 2}).encode(), "schema is 2, not 1"),
        ("manifest.json", json.dumps(listed | {"checksums": [1]}).encode(), "1 of 3 blocks"),
    ]:
        (target / name).write_bytes(content)
        one_sentence(words, moments.latents, *arguments)
        (target / name).write_bytes(whole[name])
    (target / "moments.npy").unlink()
    one_sentence("moments.npy is damaged", moments.latents, *arguments)
    one_sentence("local disk", moments.latents, "gs://bucket/x", *arguments[1:])


def test_folders_and_images_that_do_not_fit(weights, prepared, tmp_path):
    (tmp_path / "train").mkdir()
    (tmp_path / "train" / "notes.txt").write_text("mine")
    one_sentence(
        "has files but no manifest", latents.encode_data_set, image_config(weights), tmp_path
    )
    config = image_config(weights, **{"data.image_size": 7})
    one_sentence(
        "7x7x3; for the autoencoder their sides must be divisible by 2",
        latents.encode_data_set,
        config,
        "x",
    )
    config = image_config(weights, **{"data.channels": 2})
    one_sentence("8x8x2; .* their channels 3 or 1", latents.encode_data_set, config, "x")
    config = image_config(weights, **{"latents.batch_size": 0})
    one_sentence("latents.batch_size is 0", latents.encode_data_set, config, tmp_path / "new")
    config = image_config("", **{"latents.weights": ""})
    one_sentence("latents.weights is empty", latents.encode_data_set, config, tmp_path / "new")
    one_sentence(
        "give the config of the images", latents.encode_data_set, latent_config(weights, "x"), "y"
    )
    assert not (tmp_path / "new").exists()


def test_weights_that_do_not_fit(weights, tmp_path):
    whole = weights.read_bytes()
    path = tmp_path / "diffusion_pytorch_model.safetensors"
    config = image_config(path)
    one_sentence("which does not exist", latents.encode_data_set, config, tmp_path / "out")
    path.write_bytes(whole)
    words = r"decoder.conv_in.bias is \[16\], not "
    one_sentence(words + r"\[512\]", latents.encode_data_set, config, tmp_path / "out")
    (tmp_path / "config.json").write_text(json.dumps(TINY | {"block_out_channels": [8, 12]}))
    one_sentence(words + r"\[12\]", latents.encode_data_set, config, tmp_path / "out")
    (tmp_path / "config.json").write_text(json.dumps(TINY))
    path.write_bytes(whole[:-1])
    one_sentence("is damaged", latents.encode_data_set, config, tmp_path / "out")
    (tmp_path / "config.json").write_text("{")
    one_sentence(
        "does not describe an AutoencoderKL", latents.encode_data_set, config, tmp_path / "out"
    )
    assert not (tmp_path / "out").exists()


def test_latents_that_overflow_are_refused(weights, tmp_path, monkeypatch):
    huge = np.full((1, 4, 4, 8), 1e6)
    monkeypatch.setattr(
        from_config, "encoder", lambda config: lambda images: huge.repeat(len(images), 0)
    )
    one_sentence("NaN or inf in float16", latents.encode_data_set, image_config(weights), tmp_path)


def test_flips_need_stored_mirror_images(weights, tmp_path, monkeypatch):
    zeros = np.zeros((1, 4, 4, 8))
    monkeypatch.setattr(
        from_config, "encoder", lambda config: lambda images: zeros.repeat(len(images), 0)
    )
    config = image_config(weights, **{"data.flip": False})
    assert latents.encode_data_set(config, tmp_path) == 0
    one_sentence("no mirror images", from_config.data, latent_config(weights, tmp_path))
    source, _ = from_config.data(latent_config(weights, tmp_path, **{"data.flip": False}))
    assert source.mirror_images is None


def test_whitening_encodes_pixels_from_0_to_1(weights, tmp_path):
    overrides = {"latents.scaling": "edm2", "data.flip": False}
    assert latents.encode_data_set(image_config(weights, **overrides), tmp_path) == 0
    source, _ = from_config.data(latent_config(weights, tmp_path, **overrides))
    images, _ = from_config.data(image_config(weights))
    exact = direct(weights, images.images(np.arange(3)), edm2_whitening())
    np.testing.assert_allclose(source.images(np.arange(3)), exact, rtol=1e-3, atol=1e-5)
    config = latent_config(weights, tmp_path, **overrides, **{"data.channels": 3})
    one_sentence("is for 4 channels", from_config.model, config)


def test_where_the_weights_lie_is_not_what_a_run_is(weights, prepared):
    here, there = latent_config(weights, prepared), latent_config("elsewhere", prepared)
    assert identity(here) == identity(there)
    assert identity(here) != identity(latent_config(weights, prepared, **{"latents.scale": 1.0}))


@pytest.mark.long  # test_configs trains on latents too
def test_a_run_on_latents_trains_samples_and_is_evaluated(weights, prepared, tmp_path, monkeypatch):
    # One device, which compiles in half the time of eight.
    one_device = jax.devices()[:1]
    monkeypatch.setattr(jax, "devices", lambda *backend: one_device)
    source, _ = from_config.data(image_config(weights))
    np.savez(tmp_path / "reference.npz", arr_0=source.images(np.arange(100)))
    config = latent_config(weights, prepared)
    config.train.duration = config.validation.every = config.sample.every = "3 steps"
    config.model.depth, config.sample.sampler, config.sample.steps = 1, "euler", 2
    config.optim.warmup, config.evaluate.every, config.evaluate.num = "1 steps", "3 steps", 20
    one_sentence("evaluate.reference is empty", train, config, os.fspath(tmp_path / "run"))
    one_sentence("evaluate.reference is empty", evaluate, config, os.fspath(tmp_path / "run"))
    config.evaluate.reference = os.fspath(tmp_path / "reference.npz")
    assert train(config, os.fspath(tmp_path / "run")) == 0
    scalars = {}
    for record in read_history(tmp_path / "run"):
        scalars |= record
    assert np.isfinite([scalars["loss"], scalars["validation_loss"]]).all()
    assert scalars["evaluation_pixels/frechet/ema_0.995"] > 0
    with Image.open(tmp_path / "run" / "samples" / "step_00000003.png") as grid:
        assert grid.mode == "RGB" and len(np.unique(np.asarray(grid))) > 50


@pytest.mark.slow
def test_samples_of_latents_with_text_have_their_captions(weights, tmp_path, monkeypatch):
    one_device = jax.devices()[:1]
    monkeypatch.setattr(jax, "devices", lambda *backend: one_device)
    rows = []
    (tmp_path / "pictures").mkdir()
    for i in range(40):
        Image.fromarray(np.full((SIDE, SIDE, 3), 6 * i, np.uint8)).save(
            tmp_path / "pictures" / f"{i:02}.png"
        )
        rows.append({"file_name": f"{i:02}.png", "caption": [f"grey {i}", f"{6 * i} of 255"]})
    (tmp_path / "pictures" / "captions.jsonl").write_text("\n".join(map(json.dumps, rows)))
    images, made = tmp_path / "images", tmp_path / "latents"
    assert prepare.prepare_command(
        ["", "--source=folder", f"--path={tmp_path / 'pictures'}", f"--out={images}",
         "--holdout=0.2", f"--image_size={SIDE}", "--channels=3"]
    ) == 0  # fmt: skip
    of_images = {"data.name": "prepared", "data.path": os.fspath(images), "data.flip": False,
                 "model.num_classes": 0}  # fmt: skip
    assert latents.encode_data_set(image_config(weights, **of_images), made) == 0

    def letters(captions):
        states = np.array([[[ord(c)] for c in caption[:4].ljust(4)] for caption in captions])
        return states.astype(np.float32) / 128, np.full(len(captions), 4, np.int32)

    encoder = TextEncoder(letters, "letters", "abc", 4, 1)
    monkeypatch.setattr(text, "load_encoder", lambda name, length: encoder)
    config = latent_config(
        weights, made, **{"model.num_classes": 0, "data.text_encoder": "letters"}
    )
    config.data.flip, config.train.duration, config.train.batch_size = False, "1 steps", 8
    config.model.depth, config.sample.sampler, config.sample.steps = 1, "euler", 1
    config.optim.warmup, config.sample.num, config.validation.images = "0 steps", 10, 8
    for split in ("train", "test"):
        argv = ["", f"--data={images}", f"--out={made}", "--encoder=letters", f"--split={split}"]
        command = f"has no finished text states; .*--data=IMAGES --out={made} --split={split} "
        one_sentence(command, from_config.source, config, split)
        assert text.text_command(argv) == 0
    assert train(config, os.fspath(tmp_path / "run")) == 0
    assert sample(config, os.fspath(tmp_path / "run")) == 0
    with np.load(tmp_path / "run" / "samples" / "step_1" / "samples.npz") as arrays:
        held_out = prepared_images(images / "test")
        firsts = [captions[0] for captions in held_out.captions(np.arange(8))]
        assert arrays["captions"].tolist() == firsts + firsts[:2]  # 10 of 8, in turn
        assert arrays["arr_0"].shape == (10, SIDE, SIDE, 3) and "arr_1" not in arrays


def test_a_run_decodes_what_it_sampled(weights, prepared):
    config = latent_config(weights, prepared)
    model = from_config.model(config)
    source, _ = from_config.data(config)
    moments, key = source.images(np.arange(64)), jax.random.key(0)
    x0 = np.asarray(model.to_x0(moments, key))
    mean, std = np.split(moments.astype(np.float32), 2, axis=-1)
    noise = np.asarray(jax.random.normal(key, mean.shape))
    np.testing.assert_allclose(x0, 0.18215 * (mean + std * noise), rtol=1e-5, atol=1e-6)

    network = autoencoder_of(TINY)
    variables = {"params": autoencoder_params(network, read_tensors(weights))}
    decoded = jax.jit(lambda z: network.apply(variables, z, method="decode"))(x0 / 0.18215)
    expected = np.clip(np.floor(127.5 * np.asarray(decoded) + 128), 0, 255)
    decode = from_config.latent_space.decoder(config, from_config.mesh(config))
    found = np.asarray(decode(x0))
    assert found.shape == (64, SIDE, SIDE, 3) and found.dtype == np.uint8
    assert np.abs(found - expected).max() <= 1  # rounding
    assert found.std() > 10


def test_the_command(weights, tmp_path):
    arguments = [f"--config={ROOT}/configs/digits.py:smoke", f"--workdir={tmp_path / 'out'}"]
    refused = cdt(*arguments, command=latents.encode_data_set)
    assert refused.returncode == 2 and refused.stderr.count("\n") == 1
    assert refused.stderr.startswith("cdt: config.latents.weights is empty")
    good = cdt(*arguments, f"--config.latents.weights={weights}", command=latents.encode_data_set)
    assert good.returncode == 0, good.stderr
    assert "image 1500/1500" in good.stderr and "297 images encoded" in good.stdout
    assert np.load(tmp_path / "out" / "test" / "moments.npy").shape == (297, 1, 4, 4, 8)
