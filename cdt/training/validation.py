"""Validation loss per cluster, on fixed images, noise and noise levels."""

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

    The interval of a cluster is divided into M equal parts, for the M images of the batch; image i
    gets the midpoint of part i as its noise level. The noise depends on `seed` and the cluster
    only. Validation losses of different steps, and of runs with the same edges, therefore differ
    only because of the parameters.

    Args:
      example_loss: loss of each example at given noise levels, see
        `cdt.diffusion.loss.ExampleLoss`.
      edges: f32[N+1], edges of the clusters in u.
      seed: random seed of the noise, and of latents drawn from their moments. These latents are the
        same in every cluster.
      to_x0: images of the batch -> x0, see `cdt.diffusion.pixels.ToX0`.
    """
    table = jnp.asarray(edges)
    # No cluster has this index, so its key differs from those of the noise.
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
