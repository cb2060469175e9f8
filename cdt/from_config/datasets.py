"""Config -> data sources."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np
from etils import epath
from ml_collections import ConfigDict

from cdt.data import sources
from cdt.data.bad_examples import Examples
from cdt.data.folder import folder
from cdt.data.idx import idx
from cdt.data.moments import latents
from cdt.data.prepared_format import prepared
from cdt.data.text_states import TextStates, mock_text_states, read_text_states, text_folder
from cdt.devices import sharding
from cdt.errors import UserError
from cdt.from_config.choices import at_least, choose, options
from cdt.from_config.latent_space import autoencoder_sha256, scaling_record


class DataSpec(NamedTuple):
    """The argument of the builder of a data source: one split of the data of a config."""

    name: str  # such as "train"
    training: bool  # False: the held-out split
    path: str  # `config.data.path`
    image_size: int  # H = W
    channels: int
    num_classes: int | None  # of the model; None: unconditional
    encoding: Callable[[], tuple[str, Mapping[str, Any]]]  # latents: () -> (SHA-256, scaling)


# Each is called as (spec, **options), with the options of `config.data.<name>`.
SOURCES: dict[str, Callable[..., sources.Source]] = {
    "digits": lambda spec: sources.digits(spec.name),
    "mock": lambda spec: sources.mock(
        spec.name, spec.image_size, spec.channels, spec.num_classes,
        size=512 if spec.training else 128,
    ),
    "idx": lambda spec: idx(spec.path, spec.name),
    "folder": lambda spec: folder(
        epath.Path(spec.path) / spec.name, spec.image_size, spec.channels
    ),
    "latents": lambda spec: latents(spec.path, spec.name, *spec.encoding()),
    "prepared": lambda spec: prepared(epath.Path(spec.path) / spec.name),
    "npz": lambda spec: sources.npz(spec.path, spec.name),
    "tfds": lambda spec: sources.tfds(spec.path, spec.name),
}  # fmt: skip


def text_states(config: ConfigDict, split: str) -> TextStates | None:
    """Return the text states of a split's captions; None for a model that reads no text.

    For mock data only the null state and the shapes are right; `source` makes the others.
    """
    encoder = config.data.text_encoder
    if not encoder:
        return None
    if config.data.name == "mock":
        return mock_text_states(np.zeros(1, np.int32))
    if config.data.name not in ("prepared", "latents"):
        raise UserError(
            f"config.data.text_encoder is '{encoder}', but config.data.name is "
            f"'{config.data.name}'; text needs 'prepared' or 'latents': prepare the data with "
            "captions (python -m cdt.data.prepare)."
        )
    return read_text_states(
        epath.Path(config.data.path) / split, encoder, of_latents=config.data.name == "latents"
    )


def source(config: ConfigDict, split: str) -> sources.Source:
    """Return one split, with the text states of its captions if the model reads text."""
    c = config.data
    build = choose("data.name", c.name, SOURCES)
    asked = DataSpec(
        split, split == c.train_split, c.path, c.image_size, c.channels,
        config.model.num_classes or None,
        lambda: (autoencoder_sha256(config), scaling_record(config)),
    )  # fmt: skip
    opened = build(asked, **options(config, "data", c.name))
    if c.class_names:
        opened = opened._replace(classes=tuple(c.class_names))
    text = text_states(config, split)
    if text is None:
        return opened
    if config.data.name == "mock":
        no_labels = np.zeros(opened.size, np.int32)
        return opened._replace(
            text=mock_text_states(no_labels if opened.labels is None else opened.labels)
        )
    if text.manifest.captions != (opened.origin or opened.fingerprint()):
        raise UserError(
            f"The text states in {text_folder(epath.Path(config.data.path) / split)} are not of "
            f"the captions of {opened.name}; remove that folder and run python -m cdt.data.text "
            "again."
        )
    return opened._replace(text=text)


def check_classes(config: ConfigDict) -> None:
    """Raise UserError if the config names more classes than the model has."""
    names, num_classes = config.data.class_names, config.model.num_classes
    if num_classes and len(names) > num_classes:
        raise UserError(
            f"config.data.class_names has {len(names)} names, but config.model.num_classes is "
            f"{num_classes}; give at most one name for each class."
        )


def data(config: ConfigDict) -> tuple[sources.Source, sources.Source]:
    """Return the training and the held-out source, checked against the config.

    Raises:
      UserError: a source cannot be read, or does not fit the config or the other source.
    """
    check_classes(config)
    at_least(config, "seed", 0)  # NumPy's generators, which order the batches, need that
    train = source(config, config.data.train_split)
    test = source(config, config.data.test_split)
    if train.text and test.text and train.text.manifest.encoding != test.text.manifest.encoding:
        raise UserError(
            f"The text states of {train.name} and {test.name} have different encoders or lengths; "
            "run python -m cdt.data.text for both splits with the same --encoder and --max_length."
        )
    size = (config.data.image_size, config.data.image_size, config.data.channels)
    for opened in (train, test):
        if tuple(opened.shape) != size:
            raise UserError(
                f"config.data.image_size and config.data.channels are {'x'.join(map(str, size))}, "
                f"but the images of {opened.name} are {'x'.join(map(str, opened.shape))}; change "
                "these keys, or prepare the images in that size."
            )
        known = config.model.num_classes
        if known and opened.num_classes is None:
            raise UserError(
                f"config.model.num_classes is {known}, but {opened.name} has no labels; set it to "
                "0 (unconditional)."
            )
        if known and opened.num_classes > known:
            raise UserError(
                f"config.model.num_classes is {known}, but {opened.name} has "
                f"{opened.num_classes} classes; set it to {opened.num_classes}."
            )
    differing = set(train.classes or ()) ^ set(test.classes or ())
    if config.model.num_classes and differing:
        raise UserError(
            f"{train.name} and {test.name} have different classes: only one of them has "
            f"'{min(differing)}'; give both the same classes, so that their labels agree."
        )
    if config.data.flip and not train.pixels and train.mirror_images is None:
        raise UserError(
            f"config.data.flip is True, but the latents in {config.data.path} have no mirror "
            "images; set it to False, or encode the images again with data.flip = True."
        )
    return train, test


def examples(config: ConfigDict, source: sources.Source) -> Examples:
    """Return the reader of a source of which a few examples may be damaged."""
    return Examples(source, bad_fraction(config))


def bad_fraction(config: ConfigDict) -> float:
    """Return the fraction of the examples that may be damaged."""
    fraction = config.data.max_bad_fraction
    if not 0.0 <= fraction < 1.0:
        raise UserError(
            f"config.data.max_bad_fraction is {fraction}; it must lie in [0, 1), such as 0.02."
        )
    return fraction


def validation_batch(
    config: ConfigDict, source: sources.Source, mesh: jax.sharding.Mesh
) -> dict[str, jax.Array]:
    """Return held-out images: `validation.images`, rounded to a multiple of the devices.

    They are evenly spaced, because the images of a folder are in the order of their classes.
    """
    n = min(config.validation.images, source.size) // mesh.size * mesh.size
    n = max(n, mesh.size)
    indices = np.arange(n) * source.size // n
    indices, images = examples(config, source).read(indices)
    batch = {"image": images} | source.condition(indices)
    return sharding.global_batch(mesh, batch, n)
