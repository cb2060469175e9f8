"""Config -> data sources."""

import jax
import numpy as np
from ml_collections import ConfigDict

from cdt import sharding
from cdt.build.choices import choose
from cdt.build.latents import autoencoder_sha256, scaling_record
from cdt.data import sources
from cdt.data.idx import idx
from cdt.data.moments import latents
from cdt.errors import UserError

SOURCES = {
    "digits": lambda config, split: sources.digits(split),
    "mock": lambda config, split: sources.mock(
        split, config.data.image_size, config.data.channels, config.model.num_classes or None,
        size=512 if split == config.data.train_split else 128,
    ),
    "idx": lambda config, split: idx(config.data.path, split),
    "latents": lambda config, split: latents(
        config.data.path, split, autoencoder_sha256(config), scaling_record(config)
    ),
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
    if config.data.flip and not train.pixels and train.mirror_images is None:
        raise UserError(
            f"config.data.flip is True, but the latents in {config.data.path} have no mirror "
            "images; set it to False, or make them anew from a config whose data.flip is True."
        )
    return train, test


def validation_batch(
    config: ConfigDict, source: sources.Source, mesh: jax.sharding.Mesh
) -> dict[str, jax.Array]:
    """The first held-out images, as many as asked for and the devices divide."""
    n = min(config.validation.images, source.size) // mesh.size * mesh.size
    indices = np.arange(max(n, mesh.size)) % source.size
    labels = np.zeros(len(indices), np.int32) if source.labels is None else source.labels[indices]
    return sharding.global_batch(mesh, {"image": source.images(indices), "label": labels})
