"""Exports: the weights are unchanged, and the model card describes them."""

import errno
import json
import os
import subprocess
import sys

import jax
import numpy as np
import pytest
from flax.traverse_util import unflatten_dict
from safetensors.numpy import load_file

from autoencoder_files import write_autoencoder
from cdt import from_config
from cdt.diffusion.denoiser import make_denoiser
from cdt.diffusion.process import per_example
from cdt.errors import UserError
from cdt.interop import export_safetensors as export_safetensors_module
from cdt.interop import export_stablehlo
from cdt.interop.export_diffusers import export_diffusers
from cdt.interop.export_safetensors import Weights, export_safetensors
from cdt.interop.import_dit import import_dit
from dit_runs import ddpm, latent_ddpm, random_params, random_run, with_evaluation
from smoke_runs import arrays, smoke


@pytest.fixture(scope="module")
def latent_run(tmp_path_factory):
    return random_run(tmp_path_factory.mktemp("latents"), latent_ddpm())


def test_diffusers_folder_out_and_in(latent_run, tmp_path):
    config, out = latent_ddpm(), tmp_path / "exported"
    vae = write_autoencoder(tmp_path / "vae").parent
    labels = tmp_path / "labels.json"
    labels.write_text(json.dumps([f"digit {i}" for i in range(10)]))
    with_evaluation(latent_run, frechet_train=12.5, sampler="ddim", n=2000)
    assert export_diffusers(config, latent_run, out, vae, labels, "cc-by-4.0") == 0
    assert sorted(str(p.relative_to(out)) for p in out.rglob("*") if p.is_file()) == [
        "README.md", "model_index.json", "scheduler/scheduler_config.json",
        "transformer/config.json", "transformer/diffusion_pytorch_model.safetensors",
        "vae/config.json", "vae/diffusion_pytorch_model.safetensors",
    ]  # fmt: skip
    index = json.loads((out / "model_index.json").read_text())
    assert index["id2label"]["9"] == "digit 9" and index["vae"] == ["diffusers", "AutoencoderKL"]
    assert json.loads((out / "vae" / "config.json").read_text())["scaling_factor"] == 0.18215
    card = (out / "README.md").read_text()
    assert card.startswith(
        '---\nlicense: "cc-by-4.0"\nlibrary_name: "diffusers"\n---\n\n# exported'
    )
    for words in [
        "frechet train  12.5",
        "sampler        ddim",
        "downscale_freq_shift = 0",
        'DiTPipeline.from_pretrained("exported")',
        "Its classes are 0 to 9. The labels 10 to 1000 all mean no class.",
    ]:
        assert words in card

    assert import_dit(config, tmp_path / "again", out) == 0
    found, wanted = arrays(tmp_path / "again")["params"], random_params(config)
    assert jax.tree.structure(found) == jax.tree.structure(wanted)
    jax.tree.map(np.testing.assert_array_equal, found, wanted)


def test_pixels_and_runs_without_metrics(tmp_path):
    config = ddpm(**{"process.schedule": "cosine", "process.prediction": "v", "seed": 3})
    run = random_run(tmp_path, config)
    with_evaluation(run, ema="raw", frechet_train=3.0)  # of other weights
    assert export_diffusers(config, run, tmp_path / "out") == 0
    scheduler = json.loads((tmp_path / "out" / "scheduler" / "scheduler_config.json").read_text())
    assert scheduler["prediction_type"] == "v_prediction"
    assert json.loads((tmp_path / "out" / "model_index.json").read_text())["vae"] == [None, None]
    card = (tmp_path / "out" / "README.md").read_text()
    for words in (
        "works on pixels",
        "These weights were not evaluated",
        "Not stated",
        "8x8x1 (pixels",
    ):
        assert words in card


def test_plain_safetensors(tmp_path):
    config = latent_ddpm()
    run = random_run(tmp_path, config)
    (run / "samples" / "step_0").mkdir(parents=True)
    (run / "samples" / "step_0" / "grid.png").write_bytes(b"a picture")
    assert export_safetensors(config, run, tmp_path / "out") == 0
    assert (tmp_path / "out" / "samples.png").read_bytes() == b"a picture"
    assert "![Samples](samples.png)" in (tmp_path / "out" / "README.md").read_text()
    found = unflatten_dict(load_file(tmp_path / "out" / "model.safetensors"), sep="/")
    wanted = random_params(config)
    assert jax.tree.structure(found) == jax.tree.structure(wanted)
    jax.tree.map(np.testing.assert_array_equal, found, wanted)
    saved = json.loads((tmp_path / "out" / "config.json").read_text())
    assert saved["model.depth"] == config.model.depth
    assert "load_file" in (tmp_path / "out" / "README.md").read_text()


WITHOUT_CDT = """
import sys
import jax
import numpy as np
from flax.traverse_util import unflatten_dict
from safetensors.numpy import load_file

folder, inputs, outputs = sys.argv[1:]
params = unflatten_dict(load_file(folder + "/model.safetensors"), sep="/")
denoiser = jax.export.deserialize(open(folder + "/denoiser.stablehlo", "rb").read())
given = dict(np.load(inputs))
x, level = given.pop("x"), given.pop("level")
found = denoiser.call(params, x, level, given)
two = denoiser.call(params, x[:2], level[:2], {name: value[:2] for name, value in given.items()})
np.testing.assert_allclose(two["x0"], found["x0"][:2], rtol=1e-4, atol=1e-4)
assert "cdt" not in sys.modules
np.savez(outputs, **found)
"""


@pytest.mark.long  # a process
@pytest.mark.parametrize(
    "overrides",
    [
        pytest.param({"process.name": "edm"}, id="edm"),
        pytest.param(
            {"process.name": "ddpm", "process.learn_variance": True, "model.num_classes": 0},
            id="ddpm",
            marks=pytest.mark.long,
        ),
        pytest.param(
            {"model.name": "ddpmpp", "model.dropout": 0.1}, id="unet", marks=pytest.mark.long
        ),
    ],
)
def test_the_denoiser_runs_without_cdt(tmp_path, overrides):
    config = smoke(**overrides)
    model = from_config.model(config)
    params = random_params(config)
    program = export_stablehlo.denoiser(model, params)
    assert program.platforms == ("cpu", "cuda", "tpu")
    out = tmp_path / "out"
    out.mkdir()
    weights = Weights(params, 7, {}, None)
    export_safetensors_module.write_weights(out, config, weights)
    (out / "denoiser.stablehlo").write_bytes(program.serialize())

    rng = np.random.default_rng(1)
    x = rng.standard_normal((5, *model.image_shape), np.float32)
    level = np.asarray(model.process.level(np.linspace(0.1, 0.9, 5, dtype=np.float32)))
    condition = {"label": np.array([0, 3, 9, 10, 1], np.int32)} if model.null else {}
    np.savez(tmp_path / "in.npz", x=x, level=level, **condition)
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_CDT, out, tmp_path / "in.npz", tmp_path / "out.npz"],
        cwd=tmp_path, capture_output=True, text=True, check=False, timeout=300,
        env={k: v for k, v in os.environ.items() if k != "PYTHONPATH"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr

    def network(x, level):
        scaled = per_example(model.prediction.c_in(level), x) * x
        time = model.process.time_input(level)
        return model.apply(params, scaled, time, condition, None)

    wanted = make_denoiser(network, model.process, model.prediction, model.learn_variance, False)
    wanted = jax.jit(wanted)(x, level)
    with np.load(tmp_path / "out.npz") as found:
        for name in ("x0", "eps"):
            theirs, ours = found[name], np.asarray(getattr(wanted, name))
            np.testing.assert_allclose(theirs, ours, rtol=1e-3, atol=1e-4 * abs(ours).max())


def test_the_folder_of_a_denoiser(latent_run, tmp_path):
    out = tmp_path / "out"
    assert export_stablehlo.export_stablehlo(latent_ddpm(), latent_run, out) == 0
    assert {path.name for path in out.iterdir()} == {
        "README.md", "config.json", "denoiser.stablehlo", "model.safetensors"
    }  # fmt: skip
    card = (out / "README.md").read_text()
    for words in ("x, level, condition)", "float32 [batch, 8, 8, 4]", '"label": int32 [batch], 10'):
        assert words in card


@pytest.mark.parametrize(
    "export", [export_safetensors, export_diffusers, export_stablehlo.export_stablehlo]
)
def test_an_export_that_fails_leaves_nothing_and_can_be_repeated(
    latent_run, tmp_path, monkeypatch, export
):
    def refuse(*arguments, **more):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr("cdt.interop.export_safetensors.model_card", refuse)  # written last
        with pytest.raises(OSError, match="No space left"):
            export(latent_ddpm(), latent_run, tmp_path / "out")
    assert not list(tmp_path.iterdir())
    (tmp_path / "out").mkdir()
    assert export(latent_ddpm(), latent_run, tmp_path / "out") == 0
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    assert (tmp_path / "out" / "README.md").read_text().count("# out\n") == 1


def test_what_cannot_be_exported(latent_run, tmp_path):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").touch()
    (tmp_path / "labels.json").write_text('["one"]')
    vae = write_autoencoder(tmp_path / "vae").parent
    for overrides, arguments, words in [
        ({}, {"out": ""}, "--out is missing"),
        ({}, {"out": tmp_path / "full"}, "full', which already exists"),
        ({}, {"labels": tmp_path / "labels.json"}, "not a list of 10 names"),
        ({}, {"labels": tmp_path / "nowhere"}, "cannot be read as JSON"),
        ({}, {"vae": tmp_path / "full"}, "not the autoencoder of the run"),
        ({"data.channels": 8}, {"vae": vae}, "4 channels, not 8"),
        ({"data.name": "digits", "data.channels": 1}, {"vae": vae}, "does not use latents"),
        ({"latents.scaling": "edm2"}, {}, "supports only 'constant'"),
        ({"process.name": "flow", "process.learn_variance": False}, {}, "supports only 'ddpm'"),
        ({"model.num_classes": 1001}, {}, "supports at most 1000 classes"),
        ({"model.num_classes": 0}, {}, "config.model.num_classes is 0"),
        ({"seed": 9}, {}, "has a run with another seed"),
    ]:
        with pytest.raises(UserError, match=words) as caught:
            given = {"out": tmp_path / "out"} | arguments
            export_diffusers(latent_ddpm(**overrides), latent_run, **given)
        assert "\n" not in str(caught.value)
    with pytest.raises(UserError, match="There is no checkpoint"):
        export_safetensors(latent_ddpm(), tmp_path / "empty", tmp_path / "out")
    assert not (tmp_path / "out").exists()
