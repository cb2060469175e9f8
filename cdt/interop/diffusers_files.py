"""Content of the JSON files in the folder of a diffusers DiTPipeline."""

from collections.abc import Mapping, Sequence
from typing import Any

from cdt.models.dit import DiT

# The version of this format; diffusers reads folders of all older versions.
_VERSION = "0.42.1"
# Number of classes of a DiTPipeline; it uses label 1000 for "no class".
PIPELINE_CLASSES = 1000
_PREDICTIONS = {"eps": "epsilon", "x0": "sample", "v": "v_prediction"}
# Defaults of diffusers for keys that are missing in config.json, of those that define the network.
_DEFAULTS = {
    "num_attention_heads": 16, "attention_head_dim": 72, "in_channels": 4, "num_layers": 28,
    "sample_size": 32, "patch_size": 2, "activation_fn": "gelu-approximate",
    "norm_type": "ada_norm_zero", "norm_elementwise_affine": False, "attention_bias": True,
}  # fmt: skip


def transformer_config(network: DiT, channels: int, side: int) -> dict[str, Any]:
    """Return config.json of the transformer.

    Args:
      network: class-conditional, with at most `PIPELINE_CLASSES` classes; unused classes are added.
      channels: of the images or latents.
      side: height and width of the images or latents.
    """
    return {
        "_class_name": "DiTTransformer2DModel",
        "_diffusers_version": _VERSION,
        "activation_fn": "gelu-approximate",
        "attention_bias": True,
        "attention_head_dim": network.hidden_size // network.num_heads,
        "dropout": 0.0,
        "in_channels": channels,
        "norm_elementwise_affine": False,
        "norm_eps": 1e-6,
        "norm_num_groups": 32,
        "norm_type": "ada_norm_zero",
        "num_attention_heads": network.num_heads,
        "num_embeds_ada_norm": PIPELINE_CLASSES,
        "num_layers": network.depth,
        "out_channels": network.out_channels,
        "patch_size": network.patch_size,
        "sample_size": side,
        "upcast_attention": False,
    }


def check_transformer_config(
    config: Mapping[str, Any], network: DiT, channels: int, side: int
) -> None:
    """Raise ValueError if a config.json describes another network than `network`.

    Only keys are checked that the shapes of the weights do not determine. The message continues a
    sentence that names the file.
    """
    wanted = transformer_config(network, channels, side)
    for key, default in _DEFAULTS.items():
        found = config.get(key, default)
        if found != wanted[key]:
            raise ValueError(f"its {key} is {found!r}, not {wanted[key]!r}")


def scheduler_config(
    schedule: str, num_timesteps: int, prediction: str, clip: bool
) -> dict[str, Any]:
    """Return scheduler_config.json of DDIM with eta 0 and the steps of `strided_timesteps`.

    Args:
      schedule: "linear" or "cosine", see `diffusion.schedules`.
      num_timesteps: T.
      prediction: "eps", "x0" or "v".
      clip: clip the predicted x0 to [-1, 1].
    """
    scale = 1000 / num_timesteps
    return {
        "_class_name": "DDIMScheduler",
        "_diffusers_version": _VERSION,
        "beta_end": 0.02 * scale,
        "beta_schedule": {"linear": "linear", "cosine": "squaredcos_cap_v2"}[schedule],
        "beta_start": 1e-4 * scale,
        "clip_sample": clip,
        "clip_sample_range": 1.0,
        "num_train_timesteps": num_timesteps,
        "prediction_type": _PREDICTIONS[prediction],
        "rescale_betas_zero_snr": False,
        "set_alpha_to_one": True,
        "steps_offset": 0,
        "thresholding": False,
        "timestep_spacing": "leading",
        "trained_betas": None,
    }


def model_index(classes: Sequence[str], vae: bool) -> dict[str, Any]:
    """Return model_index.json.

    Args:
      classes: class names in the order of labels.
      vae: True: the folder includes the autoencoder.
    """
    return {
        "_class_name": "DiTPipeline",
        "_diffusers_version": _VERSION,
        "id2label": {str(i): name for i, name in enumerate(classes)},
        "scheduler": ["diffusers", "DDIMScheduler"],
        "transformer": ["diffusers", "DiTTransformer2DModel"],
        "vae": ["diffusers", "AutoencoderKL"] if vae else [None, None],
    }
