"""Config -> the autoencoder of a run on latents, and the scaling of the latents."""

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
from cdt.from_config.choices import at_least, choose, named
from cdt.interop.autoencoder_files import autoencoder_of, autoencoder_params
from cdt.models.autoencoder import Autoencoder, Moments

PyTree = Any

SCALINGS = {
    "constant": lambda c: constant_scale(c.scale),
    "edm2": lambda c: edm2_whitening(),
}


def scaling(config: ConfigDict) -> Scaling:
    """Return the scaling of the latents."""
    build = choose("latents.scaling", config.latents.scaling, SCALINGS)
    with named("latents"):
        return build(config.latents)


def scaling_record(config: ConfigDict) -> Mapping[str, Any]:
    """Return the scaling as JSON reads it back, to be stored with latents and compared."""
    return json.loads(json.dumps(scaling(config)._asdict()))


def autoencoder_sha256(config: ConfigDict) -> str:
    """Return the SHA-256 of the file of weights, which identifies the autoencoder."""
    return safetensors.sha256(_weights_path(config))


def to_x0(config: ConfigDict) -> ToX0:
    """Return the function from a batch's images to x0, the input of training: pixels in [-1, 1], or
    scaled latents drawn from their moments."""
    if config.data.name != "latents":
        return pixels_to_x0
    latents = scaling(config)
    channels = config.data.channels
    if len(latents.mean) not in (1, channels):
        raise UserError(
            f"config.latents.scaling is '{config.latents.scaling}', which is for "
            f"{len(latents.mean)} channels, but config.data.channels is {channels}; change one of "
            "them."
        )
    return lambda moments, key: scale_latents(latents, posterior_sample(moments, key))


def encoder(config: ConfigDict) -> Callable[[np.ndarray], np.ndarray]:
    """Return encode(uint8[n, H, W, 3 or 1]) -> float64[n, h, w, 2C], the mean and the standard
    deviation of the unscaled latents. It runs in batches on all devices of this process.

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

    # Passed as an argument: as a constant, 200 MB would be compiled into the program.
    used = {name: params[name] for name in ("decoder", "post_quant_conv")}
    return functools.partial(decode, sharding.on_every_device(mesh, used))


def latent_shape(config: ConfigDict, image_shape: tuple[int, int, int]) -> tuple[int, int, int]:
    """Return the shape (h, w, C) of the latents of images (H, W, C).

    Raises:
      UserError: the autoencoder does not take images of that shape.
    """
    network = _network(_weights_path(config))
    factor, sizes = network.downsampling, image_shape[:2]
    if any(size % factor for size in sizes) or image_shape[2] not in (1, network.image_channels):
        raise UserError(
            f"The images are {'x'.join(map(str, image_shape))}; for the autoencoder their sides "
            f"must be divisible by {factor} and their channels {network.image_channels} or 1: "
            "prepare them in another size."
        )
    return (sizes[0] // factor, sizes[1] // factor, network.latent_channels)


def _weights_path(config: ConfigDict) -> epath.Path:
    if not config.latents.weights:
        raise UserError(
            "config.latents.weights is empty; give the diffusion_pytorch_model.safetensors of an "
            "autoencoder, such as stabilityai/sd-vae-ft-ema on the Hugging Face hub."
        )
    path = epath.Path(config.latents.weights).expanduser()
    if not path.exists():
        raise UserError(
            f"config.latents.weights is '{path}', which does not exist; download the "
            "diffusion_pytorch_model.safetensors of the autoencoder and its config.json to that "
            "folder, or give another path."
        )
    return path


def _network(path: epath.Path) -> Autoencoder:
    """The network that the config.json next to the weights describes; by default Stable
    Diffusion's."""
    file = path.parent / "config.json"
    if not file.exists():
        return Autoencoder()
    try:
        content = json.loads(file.read_text())
        if not isinstance(content, dict):
            raise ValueError("it is not a JSON object")
        return autoencoder_of(content)
    except (OSError, ValueError) as error:
        raise UserError(
            f"{file} does not describe an AutoencoderKL of diffusers ({error}); put there the "
            "config.json of the weights."
        ) from error


def _autoencoder(config: ConfigDict) -> tuple[Autoencoder, PyTree]:
    path = _weights_path(config)
    network, tensors = _network(path), safetensors.read_tensors(path)
    try:
        return network, autoencoder_params(network, tensors)
    except ValueError as error:
        raise UserError(
            f"The weights in {path} do not fit the config.json in that folder, or without one the "
            f"autoencoder of Stable Diffusion ({error}); put both files of one autoencoder there."
        ) from error
