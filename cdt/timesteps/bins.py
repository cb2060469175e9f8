"""Running means of a loss over bins of u, and densities that are constant on each bin."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array


class BinMeans(NamedTuple):
    """An exponential average for each of K bins."""

    mean: Array  # f32[K]; 0 until the bin is observed
    count: Array  # type: ignore[assignment]  # f32[K], observations; not tuple.count


def no_means(num_bins: int) -> BinMeans:
    """Bins without an observation."""
    return BinMeans(jnp.zeros(num_bins, jnp.float32), jnp.zeros(num_bins, jnp.float32))


def bin_index(u: Array, knots: np.ndarray) -> Array:
    """int32[B]: the bin each u f32[B] lies in, of knots f32[K+1] from 0 to 1."""
    return jnp.searchsorted(jnp.asarray(knots[1:-1]), u, side="right").astype(jnp.int32)


def observe(means: BinMeans, index: Array, values: Array, decay: float) -> BinMeans:
    """Add a batch: k values of a bin pull its average as k steps of `decay` towards their mean.

    The first values of a bin become its average. A value that is not finite does not count.
    Compares and reduces instead of scattering, which need not be deterministic on a GPU.

    Args:
      means: so far.
      index: int32[B], bin of each value.
      values: f32[B].
      decay: in [0, 1); 0.9 remembers about the last ten values.
    """
    member = (index[:, None] == jnp.arange(len(means.mean))) & jnp.isfinite(values)[:, None]
    count = jnp.sum(member, axis=0, dtype=jnp.float32)
    total = jnp.sum(jnp.where(member, values[:, None], 0.0), axis=0)
    weight = jnp.where(means.count > 0, 1.0 - decay**count, 1.0)
    moved = means.mean + weight * (total / jnp.maximum(count, 1.0) - means.mean)
    return BinMeans(jnp.where(count > 0, moved, means.mean), means.count + count)


def warm(means: BinMeans, observations: int) -> Array:
    """bool[]: whether every bin that was drawn at all has that many observations.

    Bins never drawn are those of noise levels that a curriculum keeps closed.
    """
    drawn = means.count > 0
    return jnp.any(drawn) & jnp.all(~drawn | (means.count >= observations))


def filled(means: BinMeans) -> Array:
    """f32[K]: the averages, with their mean over the observed bins in place of missing ones."""
    drawn = means.count > 0
    average = jnp.sum(jnp.where(drawn, means.mean, 0.0)) / jnp.maximum(jnp.sum(drawn), 1)
    return jnp.where(drawn, means.mean, average)


def interpolated(means: BinMeans) -> Array:
    """f32[K]: the averages; a bin that was never observed lies on the line between its nearest
    observed neighbours, or equals the only one. 0 where nothing was observed."""
    drawn, bins = means.count > 0, jnp.arange(len(means.count))
    left = jax.lax.cummax(jnp.where(drawn, bins, -1))
    right = jax.lax.cummin(jnp.where(drawn, bins, len(bins)), reverse=True)
    left, right = jnp.where(left < 0, right, left), jnp.where(right == len(bins), left, right)
    a, b = means.mean[left], means.mean[right]
    return a + (b - a) * (bins - left) / jnp.maximum(right - left, 1)


def normalised(mass: Array, widths: Array, uniform_fraction: float) -> Array:
    """f32[K] probabilities: proportional to `mass`, mixed with a fraction of the uniform density.

    Uniform where `mass` has no finite positive sum.
    """
    total = jnp.sum(mass)
    usable = jnp.isfinite(total) & (total > 0)
    mass = jnp.where(usable, mass / jnp.where(usable, total, 1.0), widths)
    return (1.0 - uniform_fraction) * mass + uniform_fraction * widths


def cdf(mass: Array, knots: np.ndarray, u: Array) -> Array:
    """F(u), linear within each bin: from exactly 0 at u = 0 to exactly 1 at u = 1."""
    return jnp.interp(u, knots, _cumulative(mass))


def icdf(mass: Array, knots: np.ndarray, q: Array) -> Array:
    """u in [0, 1) with F(u) = q, for q in [0, 1). Rounding alone could reach 1."""
    below_one = np.nextafter(np.float32(1), np.float32(0))
    return jnp.minimum(jnp.interp(q, _cumulative(mass), knots), below_one)


def _cumulative(mass: Array) -> Array:
    inner = jnp.cumsum(mass)[:-1]
    return jnp.concatenate([jnp.zeros(1), jnp.minimum(inner, 1.0), jnp.ones(1)])
