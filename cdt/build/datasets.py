"""Config -> data sources."""

import jax
import numpy as np
from etils import epath
from ml_collections import ConfigDict

from cdt import sharding
from cdt.build.choices import choose
from cdt.data import sources
from cdt.data.folder import folder
from cdt.data.idx import idx
from cdt.data.prepared import prepared
from cdt.errors import UserError

SOURCES = {
    "digits": lambda config, split: sources.digits(split),
    "mock": lambda config, split: sources.mock(
        split, config.data.image_size, config.data.channels, config.model.num_classes or None,
        size=512 if split == config.data.train_split else 128,
    ),
    "idx": lambda config, split: idx(config.data.path, split),
    "folder": lambda config, split: folder(
        epath.Path(config.data.path) / split, config.data.image_size, config.data.channels
    ),
    "prepared": lambda config, split: prepared(epath.Path(config.data.path) / split),
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
    differing = set(train.classes or ()) ^ set(test.classes or ())
    if config.model.num_classes and differing:
        raise UserError(
            f"{train.name} and {test.name} do not have the same classes, for example only one has "
            f"'{min(differing)}'; give both the same, so that their labels agree."
        )
    return train, test


def validation_batch(
    config: ConfigDict, source: sources.Source, mesh: jax.sharding.Mesh
) -> dict[str, jax.Array]:
    """Held-out images, as many as asked for and the devices divide.

    They are evenly spaced, since those of a folder are in the order of their classes.
    """
    n = min(config.validation.images, source.size) // mesh.size * mesh.size
    n = max(n, mesh.size)
    indices = np.arange(n) * source.size // n
    batch = {"image": source.images(indices)} | source.condition(indices)
    return sharding.global_batch(mesh, batch)
