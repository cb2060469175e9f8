"""Methods from a file outside of the repository: chosen, configured and resumed as shipped ones."""

import json

import pytest

import cdt
from cdt import register
from cdt.config import check_keys, default_config, flatten
from cdt.errors import UserError
from cdt.monitoring.writers import read_history
from front_door import cdt as program
from registrations import forgotten

MINE = """
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from cdt import register
from cdt.config import default_config
from cdt.data.sources import in_memory
from cdt.evals.features import Activations
from cdt.timesteps import Draw, TimestepSampler, logit_normal


class Mlp(nn.Module):
    out_channels: int
    num_classes: int
    width: int

    @nn.compact
    def __call__(self, x, time, label):
        told = jnp.concatenate([time[:, None], jax.nn.one_hot(label, self.num_classes + 1)], -1)
        flat = x.reshape(len(x), -1)
        hidden = nn.silu(nn.Dense(self.width)(flat) + nn.Dense(self.width)(told))
        return nn.Dense(flat.shape[-1])(hidden).reshape(x.shape)


def mlp(spec, width, activations):
    assert spec.out_channels == spec.image_shape[-1] and activations == ("silu",)
    return Mlp(spec.out_channels, spec.num_classes, width)


def late(spec, mean):
    return logit_normal(mean, 1.0)


def stratified(spec, switch_fraction, shift):
    def sample(state, key, n):
        u = (jnp.arange(n) + jax.random.uniform(key, (n,))) / n
        return Draw(jnp.where(state < spec.switch_step, (u + shift) % 1, u), jnp.ones_like(u))

    return TimestepSampler(
        init=lambda: jnp.int32(0),
        sample=sample,
        update=lambda state, draw, feedback, step: state + 1,
        metrics=lambda state: {"shift": jnp.where(state < spec.switch_step, shift, 0.0)},
    )


def halved(spec, floor):
    return lambda level: jnp.maximum(floor, 0.5 * jnp.ones_like(level))


def one_jump(spec, start):
    levels = np.array([start, 0.0])
    return levels, lambda denoise, process, levels, x, noise: denoise(x, jnp.full(len(x), start))[0]


def stripes(spec, period):
    images = np.zeros((64 if spec.training else 32, 8, 8, 1), np.uint8)
    images[:, ::period] = 255
    return in_memory(f"stripes/{spec.name}", images, np.arange(len(images), dtype=np.int32) % 2, 2)


def means(spec, scale):
    return lambda images: Activations(scale * np.asarray(images, np.float64).mean((1, 2)))


register.network("mlp", mlp, width=16, activations=("silu",))
register.density("late", late, mean=1.0)
register.timestep_sampler("stratified", stratified, switch_fraction=0.5, shift=0.25)
register.loss_weight("halved", halved, floor=0.1)
register.sampler(
    "one_jump", one_jump, families=("flow",), evaluations=lambda steps: 1, start=1.0
)
register.data_source("stripes", stripes, period=2)
register.feature_space("means", means, scale=1.0)


def get_config(variant=""):
    config = default_config()
    config.data.name, config.model.num_classes = "stripes", 2
    config.model.name = "mlp"
    config.density.name, config.curriculum.num_clusters = "late", 2
    config.curriculum.patience.steps = 1
    config.loss.weight = "halved"
    config.sample.sampler, config.sample.num = "one_jump", 4
    config.train.duration, config.train.batch_size = "4 steps", 8
    config.validation.images, config.log.tensorboard = 8, False
    for section in ("log", "validation", "checkpoint", "sample"):
        config[section].every = "2 steps"
    return config
"""


@pytest.fixture(autouse=True)
def only_here():
    with forgotten():
        yield


@pytest.fixture
def mine(tmp_path):
    (tmp_path / "mine.py").write_text(MINE)
    return tmp_path / "mine.py"


def test_a_file_outside_runs_the_front_door(mine, tmp_path):
    run = [f"--config={mine}", f"--workdir={tmp_path / 'run'}", "--config.model.mlp.width=8"]
    run += ["--config.sample.one_jump.start=0.9", "--config.data.stripes.period=4"]
    assert program(*run, "--config.train.duration=2 steps").returncode == 0
    saved = json.loads((tmp_path / "run" / "config.json").read_text())
    assert saved["model.mlp.width"] == 8 and saved["density.late.mean"] == 1.0
    assert "resuming at step 2 of 4" in program(*run).stdout
    assert read_history(tmp_path / "run")[-1]["step"] == 4
    sampled = program(*run, "--mode=sample")
    assert sampled.returncode == 0 and "evaluations 1," in sampled.stdout
    assert (tmp_path / "run" / "samples" / "step_4" / "samples.npz").exists()
    evaluation = ["--config.evaluate.features=means", "--config.evaluate.num=8"]
    evaluation += ["--config.evaluate.means.scale=2.0"]
    assert program(*run, "--mode=evaluate", *evaluation).returncode == 0

    loaded = cdt.load_run(tmp_path / "run")
    assert loaded.params["Dense_0"]["kernel"].shape == (64, 8)
    assert loaded.sample(2).shape == (2, 8, 8, 1)
    for override, words in {
        "width=4": "another model.mlp.width (saved: 8, now: 4)",  # the last one given counts
        "widht=4": "did you mean 'model.mlp.width'",
        "width=wide": "is 'wide'; it must be an int",
    }.items():
        refused = program(*run, f"--config.model.mlp.{override}")
        assert refused.returncode == 2 and words in refused.stderr


def test_a_sampler_of_timesteps_switches_and_stays_out_of_the_curriculum(mine, tmp_path):
    run = [f"--config={mine}", f"--workdir={tmp_path / 'run'}", "--config.density.name=stratified"]
    assert "set config.curriculum.enabled to False" in program(*run).stderr
    run += ["--config.curriculum.enabled=False", "--config.density.stratified.shift=0.5"]
    assert program(*run, "--config.log.every=1 steps").returncode == 0
    shifts = [r["shift"] for r in read_history(tmp_path / "run") if "shift" in r]
    assert shifts == [0.5, 0.0, 0.0, 0.0]  # after each step; the first phase has two


@pytest.mark.long  # two runs
def test_arms_of_a_comparison_name_registered_methods_and_their_keys(mine, tmp_path):
    arms = "('a:', 'b: density.name=late density.late.mean=0.5')"
    run = [f"--config={mine}", f"--workdir={tmp_path / 'run'}", f"--config.compare.arms={arms}"]
    run += ["--config.evaluate.num=8", "--config.compare.evaluations=1"]
    assert program(*run, "--mode=compare", "--config.compare.seeds=1").returncode == 0
    assert (tmp_path / "run" / "index.html").exists()


def test_a_run_without_the_file_that_registers_its_network(tmp_path):
    saved = flatten(default_config()) | {"model.name": "mlp", "model.mlp.width": 8}
    (tmp_path / "config.json").write_text(json.dumps(saved))
    with pytest.raises(UserError, match="has config.model.name = 'mlp', which is not registered"):
        cdt.load_run(tmp_path)


def build(spec, **options):
    return None


def test_options_are_typed_checked_and_in_the_schema():
    register.network("net", build, width=64, rates=(0.5, 1.0), kind="a", bias=True)
    config = default_config()
    assert config.model.net.to_dict() == {
        "width": 64, "rates": (0.5, 1.0), "kind": "a", "bias": True
    }  # fmt: skip
    check_keys(config)
    config.model.net.rates = ("a",)
    with pytest.raises(UserError, match=r"config.model.net.rates holds 'a', a string; .* float"):
        check_keys(config)
    for wrong in (None, (), [1], (1, "a"), {"a": 1}):
        with pytest.raises(UserError, match=r"The default of config.model.other.key is"):
            register.network("other", build, key=wrong)


def test_the_same_function_may_come_again_and_another_may_not():
    register.loss_weight("mine", build, a=1)
    register.loss_weight("mine", build, a=2)
    assert default_config().loss.mine.a == 2
    with pytest.raises(UserError, match="The name 'mine' of config.loss.weight is taken"):
        register.loss_weight("mine", lambda spec: None)


@pytest.mark.parametrize(
    "kind, name",
    [("network", "dit"), ("network", "depth"), ("density", "uniform"), ("density", "speed"),
     ("timestep_sampler", "logit_normal"), ("loss_weight", "weight"), ("sampler", "heun"),
     ("data_source", "digits"), ("feature_space", "pixels")],
)  # fmt: skip
def test_taken_names_are_refused(kind, name):
    with pytest.raises(UserError, match=f"The name '{name}' of config.* is taken"):
        getattr(register, kind)(name, build)
    with pytest.raises(UserError, match="is not an identifier"):
        getattr(register, kind)("a-b", build)
