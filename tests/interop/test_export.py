"""What exports write: the same weights, and a card that says what they are."""

import json

import jax
import numpy as np
import pytest
from flax.traverse_util import unflatten_dict
from safetensors.numpy import load_file

from autoencoder_files import write_autoencoder
from cdt.errors import UserError
from cdt.interop.export_diffusers import export_diffusers
from cdt.interop.export_safetensors import export_safetensors
from cdt.interop.import_dit import import_dit
from dit_runs import ddpm, latent_ddpm, random_params, random_run, with_evaluation
from smoke_runs import arrays


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
        "Its classes are 0 to 9;",
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
    for words in ("works on pixels", "None were measured", "Not stated", "8x8x1 (pixels"):
        assert words in card


def test_plain_safetensors(latent_run, tmp_path):
    config = latent_ddpm()
    assert export_safetensors(config, latent_run, tmp_path / "out") == 0
    found = unflatten_dict(load_file(tmp_path / "out" / "model.safetensors"), sep="/")
    wanted = random_params(config)
    assert jax.tree.structure(found) == jax.tree.structure(wanted)
    jax.tree.map(np.testing.assert_array_equal, found, wanted)
    saved = json.loads((tmp_path / "out" / "config.json").read_text())
    assert saved["model.depth"] == config.model.depth
    assert "load_file" in (tmp_path / "out" / "README.md").read_text()


def test_what_cannot_be_exported(latent_run, tmp_path):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").touch()
    (tmp_path / "labels.json").write_text('["one"]')
    vae = write_autoencoder(tmp_path / "vae").parent
    for overrides, arguments, words in [
        ({}, {"out": ""}, "--out is missing"),
        ({}, {"out": tmp_path / "full"}, "full', which is there already"),
        ({}, {"labels": tmp_path / "labels.json"}, "not a list of 10 names"),
        ({}, {"labels": tmp_path / "nowhere"}, "cannot be read as JSON"),
        ({}, {"vae": tmp_path / "full"}, "not the autoencoder of the run"),
        ({"data.channels": 8}, {"vae": vae}, "4 channels and not 8"),
        ({"data.name": "digits", "data.channels": 1}, {"vae": vae}, "is not of latents"),
        ({"latents.scaling": "edm2"}, {}, "scales latents by one number"),
        ({"process.name": "flow", "process.learn_variance": False}, {}, "knows DDPM alone"),
        ({"model.num_classes": 1001}, {}, "takes class 1000 for none"),
        ({"model.num_classes": 0}, {}, "and 0 classes"),
        ({"seed": 9}, {}, "holds a run with another seed"),
    ]:
        with pytest.raises(UserError, match=words) as caught:
            given = {"out": tmp_path / "out"} | arguments
            export_diffusers(latent_ddpm(**overrides), latent_run, **given)
        assert "\n" not in str(caught.value)
    with pytest.raises(UserError, match="There is no checkpoint"):
        export_safetensors(latent_ddpm(), tmp_path / "empty", tmp_path / "out")
    assert not (tmp_path / "out").exists()
