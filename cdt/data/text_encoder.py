"""Text encoders of the `transformers` library; the only importer of it and of PyTorch."""

import hashlib
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from cdt.errors import UserError


class TextEncoder(NamedTuple):
    """A tokenizer and a frozen network."""

    encode: Callable[[Sequence[str]], tuple[np.ndarray, np.ndarray]]
    # n captions -> (states float32 [n, L, W], zero beyond a caption's end; lengths int32 [n] >= 1)
    name: str
    sha256: str  # of the parameters, whatever file they came from
    max_length: int  # L; longer captions are cut
    width: int  # W


def load_encoder(name: str, max_length: int) -> TextEncoder:
    """Load a model by its name on the hub or from a folder, onto the CPU, in float32.

    Of a model with a text and an image half (CLIP) the text half is used, of an encoder-decoder
    (T5) the encoder; the states are those of its last layer.

    Args:
      max_length: tokens L to which captions are cut and padded; 77 for CLIP.

    Raises:
      UserError: the libraries are not installed, or the model cannot be loaded.
    """
    try:
        import torch
        from transformers import AutoModel, AutoTokenizer
    except ImportError as error:
        raise UserError(
            f"text is encoded with the packages transformers and torch, and {error.name} is not "
            "installed: pip install -r requirements-text.txt"
        ) from None
    try:
        tokenizer = AutoTokenizer.from_pretrained(name)
        model = AutoModel.from_pretrained(name, dtype=torch.float32)
    except (OSError, ValueError, KeyError) as error:
        reason = str(error).strip().splitlines()[0]
        raise UserError(
            f"the text encoder '{name}' cannot be loaded ({reason}): give a model's name on the "
            "hub, or a folder with its config.json, weights and tokenizer"
        ) from error
    if model.config.is_encoder_decoder:
        model = model.get_encoder()
    model = getattr(model, "text_model", model).eval()

    def encode(captions: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        tokens = tokenizer(
            list(captions),
            padding="max_length",
            truncation=True,
            max_length=max_length,
            return_tensors="pt",
        )
        mask = tokens["attention_mask"]
        with torch.inference_mode():
            states = model(input_ids=tokens["input_ids"], attention_mask=mask).last_hidden_state
        states = states * mask[..., None]
        return states.numpy(), mask.sum(1).clamp(min=1).numpy().astype(np.int32)

    digest = hashlib.sha256()
    for key, value in sorted(model.state_dict().items()):
        digest.update(f"{key} {tuple(value.shape)}".encode())
        digest.update(value.contiguous().numpy().data)
    width = encode([""])[0].shape[-1]
    return TextEncoder(encode, name, digest.hexdigest(), max_length, width)
