"""Imports of EDM's U-Nets: a checkpoint to sample from and to start other runs from."""

import jax
import numpy as np
import pytest

from cdt import from_config
from cdt.errors import UserError
from cdt.files.safetensors import read_tensors, write_tensors
from cdt.interop.import_edm import import_edm
from cdt.modes.sample import sample
from cdt.modes.train import train
from cdt.run.open_run import open_run
from cdt.run.weights import load_params
from edm_state import edm_state
from smoke_runs import arrays, smoke

SIDE = 16
CONFIGS = {"adm": "imagenet64", "ddpmpp": "cifar10"}  # by class; with augmentation
FILTER = "model.enc.8x8_down.conv0.resample_filter"


def small(style, **overrides):
    """A small config; ADM has two heads in its attention layers."""
    sizes = {"model.channels": 64, "sample.num": 4, "data.flip": False}
    return smoke(CONFIGS[style], **sizes | overrides)


def random_params(config):
    shapes = jax.eval_shape(from_config.model(config).init, jax.random.key(0))
    rng = np.random.default_rng(0)
    return jax.tree.map(lambda leaf: 0.1 * rng.standard_normal(leaf.shape, np.float32), shapes)


def write(file, config, params, changes=None):
    """Write a state dict like that of `EDMPrecond`: with the prefix `model.` and the buffers."""
    state = {f"model.{n}": a for n, a in edm_state(config.model.name, params, SIDE).items()}
    state[FILTER] = np.full((1, 1, 2, 2), 0.25, np.float32)
    state |= changes or {}
    write_tensors(file, {n: a for n, a in state.items() if a is not None}, {})
    return file


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("edm")
    for style in CONFIGS:
        config = small(style)
        params = random_params(config)
        file = write(folder / f"{style}.safetensors", config, params)
        assert import_edm(config, folder / style, file) == 0
    return folder


@pytest.mark.long  # U-Nets are written to checkpoints and read; tests/peers compares their outputs
@pytest.mark.parametrize("style", CONFIGS)
def test_parameters_and_averages_are_the_weights(made, style):
    config = small(style)
    params = random_params(config)
    assert ("augment_embed" in params["condition"]) == (style == "ddpmpp")
    for name in ("raw", next(iter(from_config.ema_decays(config)))):
        config.sample.ema = name
        step, found = load_params(open_run(config, made / style))
        assert step == 0
        jax.tree.map(np.testing.assert_array_equal, found, params)


@pytest.mark.slow
def test_it_is_sampled_and_trained_on(made, tmp_path):
    config = small("ddpmpp")
    assert sample(config, str(made / "ddpmpp")) == 0
    config.init_from = str(made / "ddpmpp")
    config.optim.lr, config.optim.warmup, config.train.duration = 0.0, "0 steps", "2 steps"
    assert train(config, str(tmp_path)) == 0
    found = arrays(tmp_path)["params"]
    jax.tree.map(np.testing.assert_array_equal, found, random_params(config))


MISSING, WIDE = "model.map_layer0.bias", "model.enc.16x16_block0.conv0.weight"
PROBLEMS = {
    "missing": ({MISSING: None}, "it has no map_layer0.bias; give the config of the network"),
    "left over": ({"model.map_noise.freqs": np.zeros(3, np.float32)}, "map_noise.freqs is not a l"),
    "shape": ({WIDE: np.zeros((64, 32, 3, 3), np.float32)}, r"\[64, 32, 3, 3\], not \[64, 64"),
    "filter": ({FILTER: np.zeros((1, 1, 4, 4), np.float32)}, "filter is not the mean of 2x2"),
}


@pytest.mark.parametrize("name", PROBLEMS)
def test_other_weights_are_refused(tmp_path, name):
    changes, told = PROBLEMS[name]
    config = small("adm")
    file = write(tmp_path / "a.safetensors", config, random_params(config), changes)
    assert FILTER in read_tensors(file)
    with pytest.raises(UserError, match=told):
        import_edm(config, tmp_path / "run", file)
    assert not (tmp_path / "run" / "checkpoints").exists()


def test_what_is_not_opened(tmp_path):
    (tmp_path / "edm.pkl").write_bytes(b"cos\nsystem\n(S'true'\ntR.")
    with pytest.raises(UserError, match="is a pickle, .* so it is not opened; .*, 'edm.pt'"):
        import_edm(small("adm"), tmp_path / "run", tmp_path / "edm.pkl")
    with pytest.raises(
        UserError, match="is 'dit' and config.process.name is 'flow'; EDM's weights"
    ):
        import_edm(smoke(), tmp_path / "run", tmp_path / "a.pt")
    with pytest.raises(UserError, match="which cannot be read .No such file"):
        import_edm(small("adm"), tmp_path / "run", tmp_path / "a.pt")
