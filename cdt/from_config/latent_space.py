"""Config -> the autoencoder of a run on latents, and their scaling."""

import functools
import json
from collections.abc import Callable, Mapping
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath
from jax import Array
from ml_collections import ConfigDict

from cdt.devices import sharding
from cdt.diffusion.latent_scaling import (
    Scaling,
    constant_scale,
    decoded_pixels,
    edm2_whitening,
    encoder_input,
    posterior_sample,
    scale_latents,
    unscale_latents,
)
from cdt.diffusion.pixels import ToX0, pixels_to_x0
from cdt.errors import UserError
from cdt.evals.features import in_batches
from cdt.files import safetensors
from cdt.from_config.choices import at_least, choose
from cdt.interop.autoencoder_files import autoencoder_of, autoencoder_params
from cdt.models.autoencoder import Autoencoder, Moments

PyTree = Any

SCALINGS = {
    "constant": lambda c: constant_scale(c.scale),
    "edm2": lambda c: edm2_whitening(),
}


def scaling(config: ConfigDict) -> Scaling:
    """The scaling of a run on latents."""
    return choose("latents.scaling", config.latents.scaling, SCALINGS)(config.latents)


def scaling_record(config: ConfigDict) -> Mapping[str, Any]:
    """The scaling as JSON gives it back, to stand beside latents and be compared."""
    return json.loads(json.dumps(scaling(config)._asdict()))


def autoencoder_sha256(config: ConfigDict) -> str:
    """What identifies the autoencoder: the SHA-256 of its file of weights."""
    return safetensors.sha256(_weights_path(config))


def to_x0(config: ConfigDict) -> ToX0:
    """Images of a batch -> what the network is trained on: pixels in [-1, 1], or scaled latents
    drawn from their moments."""
    if config.data.name != "latents":
        return pixels_to_x0
    latents = scaling(config)
    channels = config.data.channels
    if len(latents.mean) not in (1, channels):
        raise UserError(
            f"config.latents.scaling '{config.latents.scaling}' is of {len(latents.mean)} "
            f"channels, but config.data.channels is {channels}; give the scaling and the channels "
            "of one autoencoder."
        )
    return lambda moments, key: scale_latents(latents, posterior_sample(moments, key))


def encoder(config: ConfigDict) -> Callable[[np.ndarray], np.ndarray]:
    """Return encode(uint8[n, H, W, 3 or 1]) -> float64[n, h, w, 2C], the mean and the standard
    deviation of raw latents, in batches over all devices of this process.

    Raises:
      UserError: the weights cannot be used.
    """
    at_least(config, "latents.batch_size", 1)
    network, params = _autoencoder(config)
    latents = scaling(config)

    def moments(params: PyTree, images: jax.Array) -> jax.Array:
        pixels = encoder_input(latents, images)
        found = cast(Moments, network.apply({"params": params}, pixels, method="encode"))
        return jnp.concatenate([found.mean, jnp.exp(0.5 * found.log_variance)], axis=-1)

    used = {name: params[name] for name in ("encoder", "quant_conv")}
    return in_batches(moments, used, "autoencoder", config.latents.batch_size)


def decoder(config: ConfigDict, mesh: jax.sharding.Mesh) -> Callable[[Array], Array]:
    """Return decode(latents of the model f32[B, h, w, C]) -> uint8[B, H, W, 3], jitted.

    Raises:
      UserError: the weights cannot be used.
    """
    network, params = _autoencoder(config)
    latents = scaling(config)

    @jax.jit
    def decode(params: PyTree, x: jax.Array) -> jax.Array:
        decoded = network.apply({"params": params}, unscale_latents(latents, x), method="decode")
        return decoded_pixels(latents, cast(Array, decoded))

    # An argument of the program: as a constant, 200 MB would be compiled into it.
    used = {name: params[name] for name in ("decoder", "post_quant_conv")}
    return functools.partial(decode, sharding.on_every_device(mesh, used))


def latent_shape(config: ConfigDict, image_shape: tuple[int, int, int]) -> tuple[int, int, int]:
    """(h, w, C) of the latents of images (H, W, C).

    Raises:
      UserError: the autoencoder does not take such images.
    """
    network = _network(_weights_path(config))
    factor, sizes = network.downsampling, image_shape[:2]
    if any(size % factor for size in sizes) or image_shape[2] not in (1, network.image_channels):
        raise UserError(
            f"The images are {'x'.join(map(str, image_shape))}; the autoencoder takes sides "
            f"divisible by {factor} and {network.image_channels} channels, or grey ones: prepare "
            "the images so."
        )
    return (sizes[0] // factor, sizes[1] // factor, network.latent_channels)


def _weights_path(config: ConfigDict) -> epath.Path:
    if not config.latents.weights:
        raise UserError(
            "config.latents.weights is empty; give the diffusion_pytorch_model.safetensors of the "
            "autoencoder, such as that of stabilityai/sd-vae-ft-ema on the Hugging Face hub."
        )
    path = epath.Path(config.latents.weights).expanduser()
    if not path.exists():
        raise UserError(
            f"config.latents.weights is '{path}'; there is no such file: fetch the "
            "diffusion_pytorch_model.safetensors of the autoencoder and its config.json to that "
            "folder, or give their place."
        )
    return path


def _network(path: epath.Path) -> Autoencoder:
    """What the config.json beside the weights describes; without one Stable Diffusion's."""
    file = path.parent / "config.json"
    if not file.exists():
        return Autoencoder()
    try:
        content = json.loads(file.read_text())
        if not isinstance(content, dict):
            raise ValueError("it is no JSON object")
        return autoencoder_of(content)
    except (OSError, ValueError) as error:
        raise UserError(
            f"{file} does not describe an autoencoder of Stable Diffusion's kind ({error}); put "
            "the config.json that belongs to the weights there."
        ) from error


def _autoencoder(config: ConfigDict) -> tuple[Autoencoder, PyTree]:
    path = _weights_path(config)
    network, tensors = _network(path), safetensors.read_tensors(path)
    try:
        return network, autoencoder_params(network, tensors)
    except ValueError as error:
        raise UserError(
            f"The weights in {path} are of another network than its config.json (or, without one, "
            f"Stable Diffusion) says ({error}); put both files of one autoencoder there."
        ) from error
