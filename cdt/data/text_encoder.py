"""Text encoders of `transformers`; the only module that imports `transformers` and PyTorch."""

import hashlib
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from cdt.errors import UserError


class TextEncoder(NamedTuple):
    """A tokenizer and a frozen network."""

    # n captions -> (states float32[n, L, W], zero after a caption's end; lengths int32[n] >= 1)
    encode: Callable[[Sequence[str]], tuple[np.ndarray, np.ndarray]]
    name: str
    sha256: str  # of the weights; independent of the file format
    max_length: int  # L in tokens; longer captions are truncated
    width: int  # W, features of a state


def load_encoder(name: str, max_length: int) -> TextEncoder:
    """Load a text model onto the CPU, in float32.

    The text model is used from a model of text and images (CLIP), the encoder from an
    encoder-decoder (T5). The states are the output of its last layer.

    Args:
      name: name on the Hugging Face hub, or folder.
      max_length: L, the number of tokens to which captions are truncated and padded; 77 for CLIP.

    Raises:
      UserError: `transformers` or `torch` is not installed, or the model cannot be loaded.
    """
    try:
        import torch
        from transformers import AutoModel, AutoTokenizer
    except ImportError as error:
        raise UserError(
            f"the package {error.name} is not installed; text encoders need transformers and "
            "torch: pip install -r requirements-text.txt."
        ) from None
    try:
        tokenizer = AutoTokenizer.from_pretrained(name)
        model = AutoModel.from_pretrained(name, dtype=torch.float32)
    except (OSError, ValueError, KeyError) as error:
        reason = str(error).strip().splitlines()[0]
        raise UserError(
            f"the text encoder '{name}' cannot be loaded ({reason}); give the name of a model on "
            "the Hugging Face hub, or a folder with its config.json, weights and tokenizer."
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
