"""Config -> the conditioning of the samples: class labels or prompts."""

from collections.abc import Callable

import numpy as np
from ml_collections import ConfigDict

from cdt.data.text_encoder import load_encoder
from cdt.errors import UserError
from cdt.from_config.datasets import source, text_states
from cdt.from_config.models import Model

HostCondition = dict[str, np.ndarray]  # arrays [n, ...] by name, in host memory


def sample_condition(config: ConfigDict, model: Model) -> Callable[[np.ndarray], HostCondition]:
    """Return condition(indices int64[n]) -> {name: array [n, ...]}, the conditioning of samples.

    A model that reads text gets `sample.prompts` in turn, or without prompts the first caption (and
    the label) of each held-out example in turn. Other models get the classes in turn, so that the
    first samples are balanced.

    Raises:
      UserError: the classes or prompts do not fit the model, or the text encoder cannot be loaded
        or is another than that of the training data.
    """
    check_sample_condition(config)
    if not config.data.text_encoder:
        return _classes(config)
    if config.sample.prompts:
        return _prompts(config, model)
    held_out = source(config, config.data.test_split)
    names = list(model.null)

    def condition(indices: np.ndarray) -> HostCondition:
        known = held_out.condition(np.asarray(indices) % held_out.size)
        return {name: known[name] for name in names}

    return condition


def check_sample_condition(config: ConfigDict) -> None:
    """Check the classes and prompts to sample, as far as the config alone shows them.

    Raises:
      UserError: the model does not know them.
    """
    classes, num_classes = tuple(config.sample.classes), config.model.num_classes
    if config.data.text_encoder and classes:
        raise UserError(
            f"config.sample.classes is {classes}, but the model reads text; leave it empty and "
            "give config.sample.prompts."
        )
    if config.data.text_encoder:
        return
    if config.sample.prompts:
        raise UserError(
            f"config.sample.prompts is {tuple(config.sample.prompts)}, but the model reads no text "
            "(config.data.text_encoder is empty); leave it empty."
        )
    if classes and not num_classes:
        raise UserError(
            f"config.sample.classes is {classes}, but the model is unconditional "
            "(config.model.num_classes is 0); leave it empty."
        )
    if classes and not 0 <= min(classes) <= max(classes) < num_classes:
        raise UserError(
            f"config.sample.classes is {classes}; the classes of the model are 0 to "
            f"{num_classes - 1} (config.model.num_classes)."
        )


def sample_captions(config: ConfigDict) -> Callable[[np.ndarray], list[str]] | None:
    """Return captions(indices int64[n]) -> n texts, the prompts or held-out captions of samples;
    None for a model that reads no text."""
    if not config.data.text_encoder:
        return None
    prompts = config.sample.prompts
    if prompts:
        return lambda indices: [prompts[i % len(prompts)] for i in indices]
    held_out = source(config, config.data.test_split).text
    assert held_out is not None  # the model reads text
    captions = held_out.captions
    return lambda indices: [captions[i % len(captions)][0] for i in indices]


def _classes(config: ConfigDict) -> Callable[[np.ndarray], HostCondition]:
    num_classes = config.model.num_classes
    if not num_classes:
        return lambda indices: {}
    classes = np.asarray(config.sample.classes or range(num_classes), np.int32)
    return lambda indices: {"label": classes[np.asarray(indices) % len(classes)]}


def _prompts(config: ConfigDict, model: Model) -> Callable[[np.ndarray], HostCondition]:
    states_of_training = text_states(config, config.data.train_split)
    assert states_of_training is not None  # the model reads text
    known = states_of_training.manifest
    encoder = load_encoder(config.data.text_encoder, known.max_length)
    if encoder.sha256 != known.encoder_sha256:
        raise UserError(
            f"config.data.text_encoder is '{encoder.name}', whose weights are not those that "
            "encoded the captions of the training data; give the same model."
        )
    states, lengths = encoder.encode(config.sample.prompts)
    states = states.astype(np.float16)  # as the captions were in training

    def condition(indices: np.ndarray) -> HostCondition:
        at = np.asarray(indices) % len(states)
        found = {"text": states[at], "text_length": lengths[at]}
        if model.num_classes:  # a prompt names no class
            found["label"] = np.full(len(at), model.num_classes, np.int32)
        return found

    return condition
