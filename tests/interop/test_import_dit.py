"""Imports of DiT and SiT: a checkpoint to sample from and to start other runs from."""

import json
import shutil

import jax
import numpy as np
import pytest
from etils import epath

from cdt import from_config
from cdt.errors import UserError
from cdt.files.safetensors import read_tensors, write_tensors
from cdt.interop import dit_names
from cdt.interop.diffusers_files import transformer_config
from cdt.interop.import_dit import import_dit
from cdt.interop.sit import reversed_time
from cdt.modes.sample import sample
from cdt.modes.train import train
from cdt.run.open_run import open_run
from cdt.run.weights import initial_params, load_params
from cdt.workdir.checkpoint import Checkpointer
from cdt.workdir.record import record_config
from dit_runs import SIDE, ddpm, official_file, random_params
from smoke_runs import arrays, smoke


def with_variance(params):
    """Add unused variance channels to the last layer: the second half for each pixel of a patch."""
    rng = np.random.default_rng(1)
    final = {
        name: np.stack([a, rng.standard_normal(a.shape, np.float32)], -1).reshape(*a.shape[:-1], -1)
        for name, a in params["final"].items()
    }
    return params | {"final": final}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder, config = tmp_path_factory.mktemp("made"), ddpm()
    params = random_params(config)
    assert import_dit(config, folder / "run", official_file(folder / "a.safetensors", params)) == 0
    return params, folder / "run"


@pytest.fixture
def imported(made):
    return ddpm(), *made


def assert_equal(a, b):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    jax.tree.map(np.testing.assert_array_equal, a, b)


def test_parameters_and_averages_are_the_weights(imported):
    config, params, workdir = imported
    for name in ("raw", "0.995", "0.98"):
        config.sample.ema = name
        step, found = load_params(open_run(config, workdir))
        assert step == 0
        assert_equal(found, params)


def test_it_is_sampled_but_not_trained_in_place(imported):
    config, _, workdir = imported
    assert sample(config, str(workdir)) == 0
    assert (workdir / "samples" / "step_0" / "samples.npz").exists()
    with pytest.raises(UserError, match=f"has imported weights .*--config.init_from={workdir}"):
        train(config, str(workdir))
    with pytest.raises(UserError, match="already has checkpoints"):
        import_dit(config, workdir, workdir.parent / "a.safetensors")


@pytest.mark.slow
def test_a_run_starts_from_it(imported, tmp_path, capsys):
    config, params, made = imported
    workdir = tmp_path / "imported"
    shutil.copytree(made, workdir)
    config.init_from = str(workdir)
    config.optim.lr, config.optim.warmup = 0.0, "0 steps"
    config.ema.decays = (0.9,)
    config.train.duration = "6 steps"
    config.mesh.data, config.mesh.fsdp, config.mesh.min_shard_size = 4, 2, 256  # another than its
    assert train(config, str(tmp_path / "run")) == 0
    assert f"starting from the weights of {workdir}" in capsys.readouterr().out
    found = arrays(tmp_path / "run")
    assert int(found["counters"]["step"]) == 6
    assert_equal(found["params"], params)
    assert_equal(found["ema"]["0.9"], params)

    # It no longer needs the workdir it was started from.
    shutil.rmtree(workdir)
    assert train(config, str(tmp_path / "run")) == 0
    assert "finished already: 6 of 6 steps" in capsys.readouterr().out


@pytest.mark.slow
def test_a_run_may_have_classes_of_its_own(imported, tmp_path):
    """New classes start as in a new run; the null class and all other weights are kept."""
    _, params, workdir = imported
    config = ddpm(**{"data.name": "mock", "model.num_classes": 3, "train.duration": "2 steps"})
    config.optim.lr, config.optim.warmup, config.mesh.min_shard_size = 0.0, "0 steps", 64
    config.mesh.data, config.mesh.fsdp = 2, 4
    assert train(config, str(tmp_path / "new")) == 0
    config.init_from = str(workdir)
    assert train(config, str(tmp_path / "run")) == 0
    fresh, found = (arrays(tmp_path / name)["params"] for name in ("new", "run"))
    table = found["label_embed"]["table"]
    assert table.shape == (4, 32)
    np.testing.assert_array_equal(table[:3], fresh["label_embed"]["table"][:3])
    np.testing.assert_array_equal(table[3], params["label_embed"]["table"][10])
    assert_equal(found | {"label_embed": 0}, params | {"label_embed": 0})


def test_of_another_run_it_is_what_that_run_samples_with(imported, tmp_path):
    config, params, _ = imported
    half = jax.tree.map(lambda leaf: leaf / 2, params)
    checkpoints = Checkpointer(tmp_path / "checkpoints", keep=1)
    checkpoints.save(7, {"params": params, "ema": {"0.995": params, "0.98": half}}, {})
    checkpoints.close()
    theirs, ours = ddpm(**{"sample.ema": "0.98"}), ddpm(**{"ema.decays": (0.5,), "seed": 5})
    record_config(epath.Path(tmp_path), theirs)
    ours.init_from = str(tmp_path)
    assert_equal(initial_params(open_run(ours, tmp_path / "new")), half)


@pytest.mark.parametrize(
    "overrides, words",
    [
        ({"init_from": "nowhere"}, "'nowhere': nowhere has no config.json"),
        ({"model.num_heads": 1}, "its network has 4 attention heads and this run's 1"),
        ({"model.depth": 1}, "does not match the config: ema/"),
        ({"model.num_classes": 0}, "has 10 classes and this run's has none; set config.mod"),
    ],
)
def test_what_a_run_cannot_start_from(imported, tmp_path, overrides, words):
    config, _, workdir = imported
    config.init_from = str(workdir)
    config.update_from_flattened_dict(overrides)
    with pytest.raises(UserError, match=words):
        train(config, str(tmp_path / "run"))
    assert not (tmp_path / "run" / "checkpoints").exists()


def test_sit_runs_the_other_way(tmp_path):
    config = smoke()
    params, workdir = random_params(config), tmp_path / "imported"
    file = official_file(tmp_path / "sit.safetensors", with_variance(params))
    assert import_dit(config, workdir, file) == 0
    assert_equal(arrays(workdir)["params"], reversed_time(params))


def diffusers_folder(folder, config, params, **changes):
    network = from_config.dit(config)
    (folder / "transformer").mkdir(parents=True)
    content = transformer_config(network, config.data.channels, config.data.image_size)
    (folder / "transformer" / "config.json").write_text(json.dumps(content | changes))
    state = dit_names.from_params(params, dit_names.DIFFUSERS, 2, SIDE)
    write_tensors(folder / "transformer" / "diffusion_pytorch_model.safetensors", state, {})
    return folder


@pytest.mark.parametrize("part", [".", "transformer"])
def test_a_folder_of_diffusers(tmp_path, part):
    config = ddpm()
    params = random_params(config)
    folder = diffusers_folder(tmp_path / "pipeline", config, params) / part
    assert import_dit(config, tmp_path / "run", folder) == 0
    assert_equal(arrays(tmp_path / "run")["ema"]["0.995"], params)


def test_what_cannot_be_imported(tmp_path):
    config = ddpm()
    params = random_params(config)
    file = official_file(tmp_path / "dit.safetensors", params)
    heads = diffusers_folder(tmp_path / "heads", config, params, num_attention_heads=1)
    broken = diffusers_folder(tmp_path / "broken", config, params)
    (broken / "transformer" / "config.json").write_text("[]")
    other_names = heads / "transformer" / "diffusion_pytorch_model.safetensors"
    tensors = read_tensors(file)
    write_tensors(tmp_path / "odd.safetensors", tensors | {"extra": np.zeros(1, np.float32)}, {})
    (tmp_path / "text.pt").write_text("no weights")
    (tmp_path / "empty").mkdir()
    deeper, other = ddpm(**{"model.depth": 3}), ddpm(**{"model.num_classes": 7})
    for given, weights, words in [
        (config, "", "--weights is missing"),
        (config, tmp_path / "nowhere.pt", "nowhere.pt', which cannot be read"),
        (config, tmp_path / "nowhere.safetensors", "nowhere.safetensors cannot be read"),
        (config, tmp_path / "text.pt", "is damaged or is not a PyTorch file"),
        (config, tmp_path / "empty", "has no DiTTransformer2DModel"),
        (config, tmp_path / "odd.safetensors", "its extra is not a layer of this network"),
        (config, heads, "its num_attention_heads is 1, not 4"),
        (config, broken, "it is not a JSON object"),
        (deeper, file, "it has no blocks.2.adaLN_modulation.1.bias"),
        (other, file, r"is \[11, 32\], which is not a table of 7 classes"),
        (smoke(), other_names, "not those of SiT"),
        (smoke(**{"process.name": "edm", "sample.sampler": "heun"}), file, "is 'edm'"),
        (ddpm(**{"model.num_classes": 0}), file, "config.model.num_classes is 0"),
        (ddpm(**{"model.name": "adm"}), file, "config.model.name is 'adm'"),
    ]:
        with pytest.raises(UserError, match=words) as caught:
            import_dit(given, tmp_path / "run", weights)
        assert "\n" not in str(caught.value)
    assert not (tmp_path / "run").exists()
