"""Config -> data sources."""

import jax
import numpy as np
from ml_collections import ConfigDict

from cdt import sharding
from cdt.build.choices import choose
from cdt.data import sources
from cdt.data.idx import idx
from cdt.errors import UserError

SOURCES = {
    "digits": lambda config, split: sources.digits(split),
    "mock": lambda config, split: sources.mock(
        split, config.data.image_size, config.data.channels, config.model.num_classes or None,
        size=512 if split == config.data.train_split else 128,
    ),
    "idx": lambda config, split: idx(config.data.path, split),
    "npz": lambda config, split: sources.npz(config.data.path, split),
    "tfds": lambda config, split: sources.tfds(config.data.path, split),
}  # fmt: skip


def data(config: ConfigDict) -> tuple[sources.Source, sources.Source]:
    """The training and the held-out source, checked against the config."""
    open_source = choose("data.name", config.data.name, SOURCES)
    train = open_source(config, config.data.train_split)
    test = open_source(config, config.data.test_split)
    size = (config.data.image_size, config.data.image_size, config.data.channels)
    for source in (train, test):
        if tuple(source.shape) != size:
            raise UserError(
                f"The images of {source.name} are {'x'.join(map(str, source.shape))}, but "
                f"config.data.image_size and channels say {'x'.join(map(str, size))}."
            )
        known = config.model.num_classes
        if known and source.num_classes is None:
            raise UserError(
                f"config.model.num_classes is {known}, but {source.name} has no labels; set it to "
                "0 for an unconditional model."
            )
        if known and source.num_classes > known:
            raise UserError(
                f"{source.name} has {source.num_classes} classes, more than the model's "
                f"{known}; set config.model.num_classes to {source.num_classes}."
            )
    return train, test


def validation_batch(
    config: ConfigDict, source: sources.Source, mesh: jax.sharding.Mesh
) -> dict[str, jax.Array]:
    """The first held-out images, as many as asked for and the devices divide."""
    n = min(config.validation.images, source.size) // mesh.size * mesh.size
    indices = np.arange(max(n, mesh.size)) % source.size
    batch = {"image": source.images(indices)} | source.condition(indices)
    return sharding.global_batch(mesh, batch)
