"""Where samplers get their random numbers: one function from a step to noise."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from cdt.diffusion.process import Process

# step index -> standard normal noise f32[B, ...] of x's shape; `START` gives what x starts from
Noise = Callable[[int | jax.Array], jax.Array]

START = 2**31 - 1  # steps are 0, 1, ...


def keyed_noise(keys: jax.Array, shape: tuple[int, ...]) -> Noise:
    """Return noise(step) -> f32[B, *shape], example i drawn from keys[i] and the step alone.

    So no draw depends on the rest of the batch, on the grid or on the sampler.

    Args:
      keys: one PRNG key an example, [B].
      shape: of one example, without the batch.
    """

    def noise(step: int | jax.Array) -> jax.Array:
        def one(key: jax.Array) -> jax.Array:
            return jax.random.normal(jax.random.fold_in(key, step), shape, jnp.float32)

        return jax.vmap(one)(keys)

    return noise


def initial_noise(process: Process, levels: np.ndarray, noise: Noise) -> jax.Array:
    """sigma(levels[0]) times noise(START): what a sampler starts from, f32[B, ...].

    Args:
      levels: the sampler's grid, noisiest first.
      noise: such as `keyed_noise` returns.
    """
    _, sigma = process.alpha_sigma(jnp.float32(levels[0]))
    return sigma * noise(START)
