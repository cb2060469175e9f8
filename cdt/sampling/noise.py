"""Random numbers of the samplers: a function from the step to noise."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from cdt.diffusion.process import Process

# step index -> standard normal noise f32[B, ...] of x's shape; `START` is the initial noise
Noise = Callable[[int | jax.Array], jax.Array]

START = 2**31 - 1  # larger than any step index


def keyed_noise(keys: jax.Array, shape: tuple[int, ...]) -> Noise:
    """Return noise(step) -> standard normal f32[B, *shape].

    The noise of example i depends on keys[i] and the step only, not on the batch, the grid or the
    sampler.

    Args:
      keys: PRNG keys [B], one per example.
      shape: shape of one example.
    """

    def noise(step: int | jax.Array) -> jax.Array:
        def one(key: jax.Array) -> jax.Array:
            return jax.random.normal(jax.random.fold_in(key, step), shape, jnp.float32)

        return jax.vmap(one)(keys)

    return noise


def initial_noise(process: Process, levels: np.ndarray, noise: Noise) -> jax.Array:
    """Return the initial x of a sampler, sigma(levels[0]) times noise(START): f32[B, ...].

    Args:
      process: noise family.
      levels: the sampler's grid, most noise first.
      noise: the function returned by `keyed_noise`.
    """
    _, sigma = process.alpha_sigma(jnp.float32(levels[0]))
    return sigma * noise(START)
