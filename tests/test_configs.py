"""Every shipped config can be built at full size, and its smoke version can be run."""

import json

import jax
import numpy as np
import pytest

from cdt import from_config
from cdt.config import check_keys, flatten
from cdt.errors import UserError
from cdt.modes import train as loop
from smoke_runs import CONFIGS, load

# Config and variant -> millions of parameters; for published networks, the published number.
FULL = {
    "cifar10": 55.73,  # EDM's DDPM++ without the inputs for augmentation
    "cifar10:dit": 32.5,
    "coco256_latent": None,
    "digits": 1.27,
    "emoji64": None,
    "emoji64:classes": None,
    "emoji64:small": None,
    "fashion_mnist": None,
    "ffhq64": 61.80,
    "ffhq256_latent": 129.6,  # DiT-B/2 without its table of classes
    "images": None,
    "images:small": None,
    "imagenet64": 295.90,
    "imagenet64:dit": None,
    "imagenet256_latent": 674.83,
    "imagenet256_latent:L": 457.84,
    "imagenet256_latent:B": 130.32,
    "imagenet256_latent:S": 32.87,
    "imagenet256_latent:sit": None,
}
FILES = [name for name in FULL if ":" not in name]


def get(name, *variants):
    file, _, own = name.partition(":")
    return load(file, ",".join(filter(None, (own, *variants))))


def test_every_file_is_tested():
    files = {path.stem for path in CONFIGS.glob("*.py")}
    assert {name.partition(":")[0] for name in FULL} == files - {"compare"}


@pytest.mark.parametrize("file", sorted(CONFIGS.glob("*.py")), ids=lambda path: path.stem)
def test_files_are_short_and_have_their_command(file):
    lines = file.read_text().splitlines()
    assert len(lines) <= 90
    assert f"python -m cdt.main --config=configs/{file.name}" in "\n".join(lines) or (
        f"--config=configs/{file.name}:" in "\n".join(lines)
    )


@pytest.mark.parametrize("name", FULL)
def test_the_network_at_full_size(name):
    config = get(name)
    check_keys(config)
    config.data.name = "mock"  # of the shape of the data, without the data
    model = from_config.model(config)
    shapes = jax.eval_shape(model.init, jax.random.key(0))
    millions = sum(x.size for x in jax.tree.leaves(shapes)) / 1e6
    if FULL[name] is not None:
        np.testing.assert_allclose(millions, FULL[name], rtol=2e-3)
    parts = from_config.training(config, model, 1, 1_000_000, 1000)
    assert parts.num_stages == 20
    config.curriculum.enabled = False
    assert from_config.training(config, model, 1, 1_000_000, 1000).num_stages == 1
    from_config.sampler(config, model)


# Whole runs. The slowest ones have networks and conditioning like the others.
SLOW = ("cifar10", "coco256_latent", "emoji64", "ffhq256_latent", "ffhq64", "imagenet64")


@pytest.mark.long
@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=pytest.mark.slow if n in SLOW else ()) for n in FILES]
)
def test_smoke(name, tmp_path):
    config = get(name, "smoke")
    # Only the last step validates, samples, evaluates and saves.
    config.train.duration, config.optim.warmup = "3 steps", "1 steps"
    config.sample.num, config.evaluate.num, config.evaluate.every = 10, 20, "3 steps"
    # U-Nets: a second level doubles the compilation.
    config.model.channel_mult, config.model.attention_resolutions = (1,), (16,)
    config.compilation_cache = ""
    assert loop.train(config, str(tmp_path)) == 0
    records = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    names = {name.partition("/")[0] for record in records for name in record}
    assert {"loss", "validation_loss", "evaluation_pixels"} <= names
    assert list((tmp_path / "samples").glob("*.png"))


@pytest.mark.parametrize("name", FULL)
def test_runlocal_keeps_data_and_network(name):
    full, local = flatten(get(name)), flatten(get(name, "runlocal"))
    changed = {key for key in full if full[key] != local[key]}
    assert changed and not any(key.startswith(("data.", "model.", "process.")) for key in changed)
    assert local["train.batch_size"] == 8


def test_an_unknown_variant_is_named():
    with pytest.raises(UserError, match="the variant 'smok'"):
        get("digits", "smok")
