"""Random numbers of the samplers, keyed by example: no draw depends on the rest of the batch."""

import jax
import jax.numpy as jnp
import numpy as np

from cdt.diffusion.process import Process

_INITIAL = 2**31 - 1  # folded into an example's key for its first draw; steps fold in 0, 1, ...


def _draw(keys: jax.Array, data: int | jax.Array, shape: tuple[int, ...]) -> jax.Array:
    def draw_one(key: jax.Array) -> jax.Array:
        return jax.random.normal(jax.random.fold_in(key, data), shape, jnp.float32)

    return jax.vmap(draw_one)(keys)


def initial_noise(
    process: Process, levels: np.ndarray, keys: jax.Array, shape: tuple[int, ...]
) -> jax.Array:
    """sigma(levels[0]) times standard normal noise, float32 [B, *shape].

    The same keys give the same noise (scaled) whatever the grid or the sampler.

    Args:
      levels: the sampler's grid, noisiest first.
      keys: one PRNG key an example.
      shape: of one example, without the batch.
    """
    _, sigma = process.alpha_sigma(jnp.float32(levels[0]))
    return sigma * _draw(keys, _INITIAL, shape)


def step_noise(keys: jax.Array, step: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """Standard normal noise of one step, float32 [B, *shape], for examples of the given shape."""
    return _draw(keys, step, shape)
