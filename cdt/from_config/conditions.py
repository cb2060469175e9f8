"""Config -> what each sample is to show."""

from collections.abc import Callable

import numpy as np
from ml_collections import ConfigDict

from cdt.data.text_encoder import load_encoder
from cdt.errors import UserError
from cdt.from_config.datasets import source, text_states
from cdt.from_config.models import Model

HostCondition = dict[str, np.ndarray]  # arrays [n, ...] by name, in host memory


def sample_condition(config: ConfigDict, model: Model) -> Callable[[np.ndarray], HostCondition]:
    """Return condition(indices int64[n]) -> arrays [n, ...], what those samples are to show.

    A model that reads text draws `sample.prompts` in turn, or else the held-out examples' first
    captions (and labels) from the first example on; others draw the classes in turn, so that any
    first samples are balanced.

    Raises:
      UserError: classes or prompts that the model does not know; prompts and another text encoder
        than that of the training data, or one that cannot be loaded.
    """
    if config.sample.prompts and not config.data.text_encoder:
        raise UserError(
            "config.sample.prompts is given, but the model reads no text; leave it empty."
        )
    if not config.data.text_encoder:
        return _classes(config)
    if config.sample.classes:
        raise UserError(
            "config.sample.classes is given, but the model reads text; give config.sample.prompts."
        )
    if config.sample.prompts:
        return _prompts(config, model)
    held_out = source(config, config.data.test_split)
    names = list(model.null)

    def condition(indices: np.ndarray) -> HostCondition:
        known = held_out.condition(np.asarray(indices) % held_out.size)
        return {name: known[name] for name in names}

    return condition


def sample_captions(config: ConfigDict) -> Callable[[np.ndarray], list[str]] | None:
    """Return captions(indices int64[n]) -> n texts, the prompts or held-out captions that those
    samples are to show; None where the model reads no text."""
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
    num_classes, given = config.model.num_classes, config.sample.classes
    if given and not num_classes:
        raise UserError(
            "config.sample.classes is given, but the model is unconditional; leave it empty."
        )
    if given and not 0 <= min(given) <= max(given) < num_classes:
        raise UserError(
            f"config.sample.classes is {tuple(given)}; the model's classes are "
            f"0..{num_classes - 1}."
        )
    if not num_classes:
        return lambda indices: {}
    classes = np.asarray(given or range(num_classes), np.int32)
    return lambda indices: {"label": classes[np.asarray(indices) % len(classes)]}


def _prompts(config: ConfigDict, model: Model) -> Callable[[np.ndarray], HostCondition]:
    states_of_training = text_states(config, config.data.train_split)
    assert states_of_training is not None  # the model reads text
    known = states_of_training.manifest
    encoder = load_encoder(config.data.text_encoder, known.max_length)
    if encoder.sha256 != known.encoder_sha256:
        raise UserError(
            f"The text encoder '{encoder.name}' has other parameters than the one that read the "
            "training data's captions; give the same model."
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
