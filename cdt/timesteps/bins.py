"""Running means of a loss in bins of u, and densities that are constant in each bin."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array


class BinMeans(NamedTuple):
    """An exponential moving average for each of K bins.

    Attributes:
      mean: f32[K]; 0 before the first observation of the bin.
      count: f32[K], number of observations.
    """

    mean: Array
    count: Array  # type: ignore[assignment]  # hides tuple.count


def empty_means(num_bins: int) -> BinMeans:
    """Return the means of bins without observations."""
    return BinMeans(jnp.zeros(num_bins, jnp.float32), jnp.zeros(num_bins, jnp.float32))


def bin_index(u: Array, knots: np.ndarray) -> Array:
    """Return the bin of each noise level, int32[B].

    Args:
      u: f32[B] in [0, 1).
      knots: f32[K+1], edges of the bins, increasing from 0 to 1.
    """
    return jnp.searchsorted(jnp.asarray(knots[1:-1]), u, side="right").astype(jnp.int32)


def observe(means: BinMeans, index: Array, values: Array, decay: float) -> BinMeans:
    """Return the means with one batch of values added.

    The k values of a bin move its average towards their mean by the factor 1 - decay^k, like k
    updates with `decay`. The first values of a bin become its average. NaN and inf are ignored.

    Args:
      means: means before this batch.
      index: int32[B], bin of each value.
      values: f32[B].
      decay: in [0, 1); 0.9 averages over about the last ten values.
    """
    # Compare and reduce instead of a scatter-add, which can be nondeterministic on a GPU.
    member = (index[:, None] == jnp.arange(len(means.mean))) & jnp.isfinite(values)[:, None]
    count = jnp.sum(member, axis=0, dtype=jnp.float32)
    total = jnp.sum(jnp.where(member, values[:, None], 0.0), axis=0)
    weight = jnp.where(means.count > 0, 1.0 - decay**count, 1.0)
    moved = means.mean + weight * (total / jnp.maximum(count, 1.0) - means.mean)
    return BinMeans(jnp.where(count > 0, moved, means.mean), means.count + count)


def warm(means: BinMeans, observations: int) -> Array:
    """Return bool[]: True if each bin has 0 or at least `observations` observations, and one has.

    A bin without observations belongs to a cluster that the curriculum has not opened.
    """
    drawn = means.count > 0
    return jnp.any(drawn) & jnp.all(~drawn | (means.count >= observations))


def filled(means: BinMeans) -> Array:
    """Return the averages f32[K]; a bin without observations gets the mean of the others."""
    drawn = means.count > 0
    average = jnp.sum(jnp.where(drawn, means.mean, 0.0)) / jnp.maximum(jnp.sum(drawn), 1)
    return jnp.where(drawn, means.mean, average)


def interpolated(means: BinMeans) -> Array:
    """Return the averages f32[K], interpolated linearly over the bins without observations.

    Beyond the outermost observed bin the average is constant. Without any observation it is 0.
    """
    drawn, bins = means.count > 0, jnp.arange(len(means.count))
    left = jax.lax.cummax(jnp.where(drawn, bins, -1))
    right = jax.lax.cummin(jnp.where(drawn, bins, len(bins)), reverse=True)
    left, right = jnp.where(left < 0, right, left), jnp.where(right == len(bins), left, right)
    a, b = means.mean[left], means.mean[right]
    return a + (b - a) * (bins - left) / jnp.maximum(right - left, 1)


def normalised(mass: Array, widths: Array, uniform_fraction: float) -> Array:
    """Return the probabilities of the bins: `mass` normalised, mixed with the uniform density.

    The result is uniform if the sum of `mass` is 0, NaN or inf.

    Args:
      mass: f32[K] >= 0.
      widths: f32[K], widths of the bins, with sum 1.
      uniform_fraction: weight of the uniform density in the mixture, in [0, 1).

    Returns:
      f32[K] with sum 1.
    """
    total = jnp.sum(mass)
    usable = jnp.isfinite(total) & (total > 0)
    mass = jnp.where(usable, mass / jnp.where(usable, total, 1.0), widths)
    return (1.0 - uniform_fraction) * mass + uniform_fraction * widths


def cdf(mass: Array, knots: np.ndarray, u: Array) -> Array:
    """Return F(u) of the density with probability `mass` f32[K] in each bin; of u's shape.

    F is linear within a bin, exactly 0 at u = 0 and exactly 1 at u = 1.
    """
    return jnp.interp(u, knots, _cumulative(mass))


def icdf(mass: Array, knots: np.ndarray, q: Array) -> Array:
    """Return u in [0, 1) with F(u) = q, for q in [0, 1), see `cdf`."""
    below_one = np.nextafter(np.float32(1), np.float32(0))  # rounding could give u = 1
    return jnp.minimum(jnp.interp(q, _cumulative(mass), knots), below_one)


def _cumulative(mass: Array) -> Array:
    inner = jnp.cumsum(mass)[:-1]
    return jnp.concatenate([jnp.zeros(1), jnp.minimum(inner, 1.0), jnp.ones(1)])
