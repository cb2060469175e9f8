"""Validation loss per timestep cluster, on images, noise and levels that never change."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from cdt.diffusion.loss import ExampleLoss
from cdt.diffusion.pixels import ToX0, pixels_to_x0
from cdt.training.step import condition_of

PyTree = Any


def make_validation(
    example_loss: ExampleLoss, edges: np.ndarray | Array, seed: int, to_x0: ToX0 = pixels_to_x0
) -> Callable[[PyTree, dict[str, Array]], Array]:
    """Return validate(params, batch) -> f32[N], the mean loss in each cluster.

    In every cluster the M images of the batch meet M levels, the midpoints of M equal parts of its
    interval of u, and noise that depends on `seed` and the cluster alone. So the curves of a run,
    and those of two runs with the same edges, differ by the parameters only.

    Args:
      example_loss: see `cdt.diffusion.loss.ExampleLoss`.
      edges: f32[N+1].
      seed: of the noise, and of latents drawn from their moments: the same in every cluster.
      to_x0: see `cdt.diffusion.pixels.ToX0`.
    """
    table = jnp.asarray(edges)
    # The clusters' noise counts from 0, so this never meets it.
    posterior_key = jax.random.fold_in(jax.random.key(seed), 2**32 - 1)

    def validate(params: PyTree, batch: dict[str, Array]) -> Array:
        x0 = to_x0(batch["image"], posterior_key)
        offsets = (jnp.arange(x0.shape[0], dtype=jnp.float32) + 0.5) / x0.shape[0]

        def one(cluster: Array) -> Array:
            u = table[cluster] + (table[cluster + 1] - table[cluster]) * offsets
            eps = jax.random.normal(jax.random.fold_in(jax.random.key(seed), cluster), x0.shape)
            loss, _ = example_loss(params, x0, eps, u, condition_of(batch), None)
            return jnp.mean(loss)

        return jax.lax.map(one, jnp.arange(len(edges) - 1))

    return validate
