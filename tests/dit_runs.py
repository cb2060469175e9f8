"""Workdirs of class-conditional DiTs with random weights, written without training."""

import json

import jax
import numpy as np

from cdt import from_config
from cdt.files.safetensors import write_tensors
from cdt.interop.dit_names import OFFICIAL, from_params
from cdt.interop.import_dit import import_dit
from smoke_runs import smoke

SIDE = 4  # tokens of an image of 8x8


def ddpm(**overrides):
    own = {"process.name": "ddpm", "process.learn_variance": True}
    sampling = {"sample.sampler": "ddim", "sample.steps": 20, "sample.num": 4}
    return smoke(**own | sampling | overrides)


def latent_ddpm(**overrides):
    """The same for latents of 4 channels."""
    return ddpm(**{"data.name": "latents", "data.channels": 4} | overrides)


def random_params(config):
    """Random kernels and biases of about the usual scale; none are zero as after `init`."""
    shapes = jax.eval_shape(from_config.model(config).init, jax.random.key(0))
    rng = np.random.default_rng(0)
    return jax.tree.map(lambda leaf: 0.15 * rng.standard_normal(leaf.shape, np.float32), shapes)


def official_file(path, params):
    write_tensors(path, from_params(params, OFFICIAL, 2, SIDE), {})
    return path


def random_run(folder, config):
    """Write a workdir of `config` in `folder`, with `random_params` as weights and EMAs."""
    file = official_file(folder / "weights.safetensors", random_params(config))
    assert import_dit(config, folder / "run", file) == 0
    return folder / "run"


def with_evaluation(workdir, **results):
    folder = workdir / "evaluations"
    folder.mkdir(exist_ok=True)
    (folder / "step_0_pixels.json").write_text(json.dumps({"step": 0, "ema": "0.995"} | results))
