"""Speed of the autoencoder, and the error of storing its moments in float16.

    python -m benchmarks.latents [--weights=FILE.safetensors] [--side=256] [--batch=8]

Without weights, the network is that of Stable Diffusion with random weights: speed and relative
rounding errors are about the same. The errors are compared with those from rounding the pixels of
the images to 256 levels.
"""

import argparse
import time

import jax
import jax.numpy as jnp
import numpy as np

from cdt.data.sources import mock
from cdt.files import safetensors
from cdt.interop.autoencoder_files import autoencoder_params
from cdt.models.autoencoder import Autoencoder


def rms(x) -> float:
    return float(np.sqrt(np.mean(np.square(np.asarray(x, np.float64)))))


def seconds(function, *arguments, repeat: int = 2) -> float:
    jax.block_until_ready(function(*arguments))
    began = time.perf_counter()
    for _ in range(repeat):
        jax.block_until_ready(function(*arguments))
    return (time.perf_counter() - began) / repeat


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--weights")
    parser.add_argument("--side", type=int, default=256)
    parser.add_argument("--batch", type=int, default=8)
    arguments = parser.parse_args()

    network = Autoencoder()
    images = mock("train", arguments.side, 3, 10, arguments.batch).images(
        np.arange(arguments.batch)
    )
    x = jnp.asarray(images, jnp.float32) / 127.5 - 1
    if arguments.weights:
        params = autoencoder_params(network, safetensors.read_tensors(arguments.weights))
    else:
        params = jax.jit(network.init)(jax.random.key(0), x[:, :8, :8])["params"]
    params = jax.device_put(params)

    @jax.jit
    def encode(params, x):
        return network.apply({"params": params}, x, method="encode")

    @jax.jit
    def decode(params, z):
        return network.apply({"params": params}, z, method="decode")

    mean = encode(params, x).mean
    print(f"{jax.devices()[0].device_kind}, {arguments.batch} images of {arguments.side}x"
          f"{arguments.side}, float32")  # fmt: skip
    print(f"encode {arguments.batch / seconds(encode, params, x):.3g} images/s")
    print(f"decode {arguments.batch / seconds(decode, params, mean):.3g} images/s")

    deviation = float(np.std(mean))
    half_levels = jax.random.uniform(jax.random.key(1), x.shape, minval=-1, maxval=1) / 255
    from_pixels = rms(encode(params, x + half_levels).mean - mean) / deviation
    rounded = np.asarray(mean).astype(np.float16).astype(np.float32)
    from_float16 = rms(rounded - mean) / deviation
    decoded = 127.5 * rms(decode(params, rounded) - decode(params, mean))
    print(f"error of the mean / its standard deviation: {from_float16:.1e} from float16, "
          f"{from_pixels:.1e} from pixels of 256 levels")  # fmt: skip
    print(f"error of decoded pixels from float16: {decoded:.1e} levels")


if __name__ == "__main__":
    main()
