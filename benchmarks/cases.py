"""Configs of the benchmarked networks, and their compiled train steps."""

import ast
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np
from ml_collections import ConfigDict

from cdt import from_config
from cdt.config import default_config
from cdt.devices.compilation import compile_program
from cdt.models.dit import named_dit

PyTree = Any


def _digits(config: ConfigDict) -> None:
    config.model.num_classes = 10
    config.model.depth = 4
    config.model.hidden_size, config.model.num_heads, config.model.patch_size = 128, 4, 2
    config.model.unroll = True
    config.train.batch_size = 64


def _images(config: ConfigDict, size: int, channels: int, num_classes: int) -> None:
    config.data.name = "mock"
    config.data.image_size, config.data.channels = size, channels
    config.model.num_classes = num_classes


def _dit(name: str, size: int, channels: int, num_classes: int, batch_size: int):
    def set_up(config: ConfigDict) -> None:
        _images(config, size, channels, num_classes)
        model = named_dit(name, out_channels=channels)
        config.model.hidden_size, config.model.num_heads = model.hidden_size, model.num_heads
        config.model.depth, config.model.patch_size = model.depth, model.patch_size
        config.train.batch_size = batch_size

    return set_up


def _dit_s4(config: ConfigDict) -> None:
    _dit("S/4", 32, 3, 10, 16)(config)
    config.model.unroll = True


def _adm64(config: ConfigDict) -> None:
    _images(config, 64, 3, 1000)
    config.model.name, config.model.size = "adm", "imagenet64"
    config.train.batch_size = 128


# The first two are for CPUs. dit_s2 to dit_xl2 use latents of 256x256 images, adm64 64x64 images.
CASES = {
    "digits": _digits,
    "dit_s4": _dit_s4,
    "dit_s2": _dit("S/2", 32, 4, 1000, 256),
    "dit_b2": _dit("B/2", 32, 4, 1000, 256),
    "dit_l2": _dit("L/2", 32, 4, 1000, 256),
    "dit_xl2": _dit("XL/2", 32, 4, 1000, 256),
    "adm64": _adm64,
}


def case_config(name: str, **overrides) -> ConfigDict:
    """Return the config of a case: uniform density, flow matching (ADM: EDM), AdamW and one EMA.

    The dtype is float32 on CPUs, otherwise bfloat16.

    Args:
      name: one of `CASES`.
      **overrides: values by "section.key".
    """
    config = default_config()
    config.curriculum.enabled = False
    CASES[name](config)
    config.process.name = "edm" if config.model.name == "adm" else "flow"
    config.model.dtype = "float32" if jax.default_backend() == "cpu" else "bfloat16"
    config.update_from_flattened_dict(overrides)
    return config


def parse_overrides(texts: list[str]) -> dict[str, Any]:
    """Convert ["model.unroll=True", ...] to {"model.unroll": True, ...}.

    A value that is not a Python literal becomes a string.
    """
    overrides = {}
    for text in texts:
        key, _, value = text.partition("=")
        try:
            overrides[key] = ast.literal_eval(value)
        except (ValueError, SyntaxError):
            overrides[key] = value
    return overrides


def first_batch(config: ConfigDict) -> tuple[dict[str, np.ndarray], int]:
    """Return (batch of the first images with their labels, number of examples in the data)."""
    source, _ = from_config.data(config)
    indices = np.arange(config.train.batch_size) % source.size
    batch = {"image": source.images(indices), "label": source.labels[indices].astype(np.int32)}
    return batch, source.size


class Step(NamedTuple):
    """A compiled train step and its arguments."""

    program: jax.stages.Compiled
    state: PyTree
    batch: dict[str, jax.Array]  # on the device
    compile_seconds: float  # lowering included

    @property
    def num_params(self) -> int:
        return sum(p.size for p in jax.tree.leaves(self.state.params))

    def runner(self) -> Callable[[], None]:
        """Return a function that runs the next train step and waits for it.

        It donates `self.state`, so the state can be used only once.
        """
        state = self.state

        def run():
            nonlocal state
            state, metrics = self.program(state, self.batch)
            jax.block_until_ready((state, metrics))

        return run


def compiled_step(config: ConfigDict) -> Step:
    """Return the compiled train step of a config on one device, with the initial state."""
    batch, data_size = first_batch(config)
    model = from_config.model(config)
    parts = from_config.training(
        config, model, 1, data_size, from_config.open_all_at(config, data_size)
    )
    on_device = jax.device_put(batch)
    state = jax.jit(parts.init)(jax.random.key(0))
    began = time.perf_counter()
    program = compile_program(jax.jit(parts.step, donate_argnums=0).lower(state, on_device))
    return Step(program, state, on_device, time.perf_counter() - began)
