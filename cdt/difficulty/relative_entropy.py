"""Relative entropy between neighbouring noise levels of a finite data set.

It is D_KL(p_prev || p_next), where p = (1/M) sum_i N(alpha x_i, sigma^2 I) is the data set of M
examples in d dimensions at one noise level, and p_next is a little noisier than p_prev. The
curriculum's paper (Kim et al. 2025, arXiv 2403.10348) uses it as one of two measures of difficulty.

Everything here is NumPy float64 on the host. The log densities are of the order of d and their
differences many orders smaller, so at high noise float32 would lose them.
"""

import os
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from cdt.diffusion.process import Process

# An example is isolated if half the distance to its nearest neighbour is more than this many
# standard deviations of the noise. A draw is then nearer to the neighbour once in 700 times.
_APART = 3.0
# Elements of a block of distances per thread, few enough for its temporaries to stay in the cache.
_CHUNK = 2**15


class LevelPairs(NamedTuple):
    """P pairs of neighbouring noise levels, the cleaner of each pair (prev) first.

    Attributes:
      u: f64[P], the middle of each pair in the noise coordinate.
      step: width of every pair in u.
      alpha: f64[P, 2], of both levels of each pair.
      sigma: f64[P, 2], > 0, of both levels of each pair.
    """

    u: np.ndarray
    step: float
    alpha: np.ndarray
    sigma: np.ndarray


class RelativeEntropy(NamedTuple):
    """D_KL(p_prev || p_next) of P pairs of levels, in nats per dimension.

    Attributes:
      u: f64[P], the middle of each pair.
      step: width of every pair in u; the entropy scales with its square.
      nats_per_dim: f64[P], the estimate.
      standard_error: f64[P], of the Monte Carlo estimate.
      one_point: f64[P], the same for a data set of one point; an upper bound.
      single_point: bool[P], whether the examples are isolated from their neighbours.
      nearest: median distance of an example to its nearest neighbour.
      draws: number of draws n.
      examples: number of examples M.
      dimensions: number of dimensions d.
    """

    u: np.ndarray
    step: float
    nats_per_dim: np.ndarray
    standard_error: np.ndarray
    one_point: np.ndarray
    single_point: np.ndarray
    nearest: float
    draws: int
    examples: int
    dimensions: int


def level_pairs(process: Process, num_pairs: int) -> LevelPairs:
    """Return pairs of neighbouring levels, all at the same distance in u.

    The distance is fixed because relative entropy scales with its square. A discrete family gives
    consecutive timesteps (t - 1, t), t = 1..T-1, at most `num_pairs` of them, spread evenly. A
    continuous family gives neighbours among the midpoints of num_pairs + 1 equal parts of u. The
    clean end has no density and is left out.

    Args:
      process: of any family.
      num_pairs: their number, at least 1; a discrete family may have fewer.

    Raises:
      ValueError: num_pairs < 1, or a discrete family of a single timestep.
    """
    if num_pairs < 1:
        raise ValueError(f"The number of pairs of levels is {num_pairs}; it must be at least 1.")
    if process.num_levels is None:
        count = num_pairs + 1
        centres = np.arange(1, count) / count
    else:
        count = process.num_levels
        if count < 2:
            raise ValueError("The family has a single timestep; it must have at least 2.")
        spread = np.linspace(1, count - 1, min(num_pairs, count - 1))
        centres = np.unique(np.rint(spread)) / count
    u = centres[:, None] + np.array([-0.5, 0.5]) / count
    alpha, sigma = _alpha_sigma(process, u)
    return LevelPairs(centres, 1.0 / count, alpha, sigma)


def _alpha_sigma(process: Process, u: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return alpha and sigma at u in float64.

    Float32 is too coarse: the sigmas of DDPM's last timesteps differ by a few ulps.
    """
    if process.num_levels is not None:
        # The discrete family is variance preserving. Its tables are float32; only its log SNR is
        # float64.
        half = 0.5 * process.log_snr(u)
        return np.exp(-0.5 * np.logaddexp(0, -2 * half)), np.exp(-0.5 * np.logaddexp(0, 2 * half))
    with jax.enable_x64(True):
        alpha, sigma = process.alpha_sigma(process.level(jnp.asarray(u, jnp.float64)))
        return np.asarray(alpha, np.float64), np.asarray(sigma, np.float64)


def relative_entropy(
    data: np.ndarray,
    pairs: LevelPairs,
    *,
    num_draws: int = 500,
    seed: int = 0,
    block: int = 2048,
    workers: int | None = None,
) -> RelativeEntropy:
    """Estimate D_KL(p_prev || p_next) for every pair by Monte Carlo, on the same draws.

    Each draw takes an example and noise, x = alpha_prev x_j + sigma_prev eps. The mean of the log
    ratio log p_prev(x) - log p_next(x) is the relative entropy. For close levels its standard
    deviation is of the order of the *root* of the mean, so quantities of known mean are regressed
    out of it (control variates):

    - |eps|^2, eps.x_j and |x_j|^2, which explain all of it if the data are single points;
    - p_next(x) / p_prev(x), whose mean under p_prev is 1. For close levels it cancels the first
      order (J. Schulman, "Approximating KL divergence", 2020);
    - squares of the first, for the remaining second order.

    The bias of the regression is of the order of the value divided by the number of draws.

    The cost is 4 n M d multiply-adds, for any number of pairs, and 2 P n M exponentials.

    Args:
      data: float[M, ...], on the scale of training (images in [-1, 1]). It is read `block` examples
        at a time, so it may be a memory map.
      pairs: from `level_pairs`.
      num_draws: n >= 20; the standard error falls with its root.
      seed: of examples and noise.
      block: examples compared at a time; memory is O(n block + n P + n d).
      workers: threads; None is one per core.

    Raises:
      ValueError: no example, or fewer than 20 draws.
    """
    if num_draws < 20:
        raise ValueError(f"The number of draws is {num_draws}; it must be at least 20.")
    if len(data) == 0:
        raise ValueError("The data set is empty; it must have at least one example.")
    data = data.reshape(len(data), -1)
    rng = np.random.default_rng(seed)
    index = rng.integers(len(data), size=num_draws)
    noise = rng.standard_normal((num_draws, data.shape[1]))
    ratios = log_ratios(data, index, noise, pairs, block=block, workers=workers)

    dimensions = data.shape[1]
    own = np.asarray(data[index], np.float64)
    length, cross = (noise**2).sum(axis=1) - dimensions, (noise * own).sum(axis=1)
    controls = np.stack(
        [
            length,
            cross,
            (own**2).sum(axis=1) - ratios.mean_square,
            length**2 - 2 * dimensions,
            cross**2 - ratios.mean_square,
            length * cross,
        ],
        axis=1,
    )
    estimates = np.array([_estimate(values, controls) for values in ratios.log_ratio])
    nearest = float(np.median(ratios.nearest))
    alpha, sigma = pairs.alpha[:, 1], pairs.sigma[:, 1]
    return RelativeEntropy(
        u=pairs.u,
        step=pairs.step,
        nats_per_dim=estimates[:, 0] / dimensions,
        standard_error=estimates[:, 1] / dimensions,
        one_point=isotropic_gaussians(pairs, ratios.mean_square / dimensions),
        single_point=alpha * nearest / 2 > _APART * sigma,
        nearest=nearest,
        draws=num_draws,
        examples=len(data),
        dimensions=dimensions,
    )


def isotropic_gaussians(pairs: LevelPairs, mean_square: float) -> np.ndarray:
    """Return the relative entropy between N(alpha x, sigma^2 I) of both levels, for a point x.

    Its average over a data set is an upper bound of the relative entropy of that set, because
    relative entropy is jointly convex.

    Args:
      pairs: of levels.
      mean_square: |x|^2 / d, averaged over the points.

    Returns:
      f64[P], nats per dimension.
    """
    (a_prev, a_next), (s_prev, s_next) = pairs.alpha.T, pairs.sigma.T
    excess = (
        (s_prev - s_next) * (s_prev + s_next) / s_next**2
    )  # variance ratio - 1, to the last bit
    return 0.5 * (excess - np.log1p(excess) + (a_prev - a_next) ** 2 * mean_square / s_next**2)


class LogRatios(NamedTuple):
    """The result of one pass over the data.

    Attributes:
      log_ratio: f64[P, n], log p_prev(x) - log p_next(x) in nats.
      nearest: f64[n], distance of each drawn example to its nearest other one.
      mean_square: |x_i|^2, averaged over the data.
    """

    log_ratio: np.ndarray
    nearest: np.ndarray
    mean_square: float


def log_ratios(
    data: np.ndarray,
    index: np.ndarray,
    noise: np.ndarray,
    pairs: LevelPairs,
    *,
    block: int = 2048,
    workers: int | None = None,
) -> LogRatios:
    """Compute log p_prev(x) - log p_next(x) at x = alpha_prev data[index] + sigma_prev noise.

    Two matrix products per block serve every pair of levels. With x = a x_j + s eps and
    delta_i = x_i - x_j, the log density of component i minus that of component j depends only on
    |delta_i|^2, eps.delta_i and |x_i|^2 - |x_j|^2. Relative to component j the exponents that
    matter are small, so the difference of the two logarithms stays exact.

    Args:
      data: float[M, d].
      index: int[n], the examples of the draws.
      noise: f64[n, d].
      pairs: P pairs of levels.
      block: examples compared at a time.
      workers: threads; None is one per core.
    """
    num_draws, num_pairs = len(index), len(pairs.u)
    x_j = np.asarray(data[index], np.float64)
    norm_j, cross_j = (x_j**2).sum(axis=1), (noise * x_j).sum(axis=1)
    # Running log-sum-exp over the data: [level of the pair, pair, draw].
    peak = np.full((2, num_pairs, num_draws), -np.inf)
    total = np.zeros((2, num_pairs, num_draws))
    nearest = np.full(num_draws, np.inf)
    sum_of_squares = 0.0
    rows_at_a_time = max(1, _CHUNK // block)
    slices = [slice(i, i + rows_at_a_time) for i in range(0, num_draws, rows_at_a_time)]

    with ThreadPoolExecutor(workers or os.cpu_count()) as pool:
        for start in range(0, len(data), block):
            x_i = np.asarray(data[start : start + block], np.float64)
            norm_i = (x_i**2).sum(axis=1)
            sum_of_squares += norm_i.sum()
            distance = norm_j[:, None] + norm_i - 2.0 * (x_j @ x_i.T)
            slope = noise @ x_i.T - cross_j[:, None]
            drawn = np.flatnonzero((index >= start) & (index < start + len(x_i)))
            own = drawn, index[drawn] - start
            distance[own] = np.inf
            nearest = np.minimum(nearest, distance.min(axis=1))
            # Exact zeros: a rounding error would be divided by sigma^2.
            distance[own] = slope[own] = 0.0

            def add(
                rows: slice,
                distance: np.ndarray = distance,
                slope: np.ndarray = slope,
                norm_i: np.ndarray = norm_i,
            ) -> None:
                _accumulate(
                    peak[..., rows], total[..., rows], distance[rows], slope[rows],
                    norm_i - norm_j[rows, None], pairs,
                )  # fmt: skip

            list(pool.map(add, slices))

    log_sum = peak + np.log(total)
    (a_prev, a_next), (s_prev, s_next) = pairs.alpha.T[..., None], pairs.sigma.T[..., None]
    # The densities of component j itself; x - a_next x_j = a_shift x_j + s_prev eps.
    a_shift = a_prev - a_next
    excess = (s_prev - s_next) * (s_prev + s_next) / s_next**2
    own_ratio = (
        -0.5 * noise.shape[1] * np.log1p(excess)
        + 0.5 * excess * (noise**2).sum(axis=1)
        + a_shift * s_prev / s_next**2 * cross_j
        + 0.5 * (a_shift / s_next) ** 2 * norm_j
    )
    return LogRatios(
        log_ratio=own_ratio + log_sum[0] - log_sum[1],
        nearest=np.sqrt(np.maximum(nearest, 0.0)),
        mean_square=sum_of_squares / len(data),
    )


def _accumulate(
    peak: np.ndarray,
    total: np.ndarray,
    distance: np.ndarray,
    slope: np.ndarray,
    norm_difference: np.ndarray,
    pairs: LevelPairs,
) -> None:
    """Add a block of the data to the log-sum-exp of some draws, in place, for all pairs."""
    exponent, term = np.empty_like(distance), np.empty_like(distance)
    for p in range(len(pairs.u)):
        a_prev, s_prev = pairs.alpha[p, 0], pairs.sigma[p, 0]
        for side in range(2):
            a, s = pairs.alpha[p, side], pairs.sigma[p, side]
            np.multiply(distance, -0.5 * a * a_prev / s**2, out=exponent)
            exponent += np.multiply(slope, a * s_prev / s**2, out=term)
            if a != a_prev:
                scale = 0.5 * a * (a_prev - a) / s**2
                exponent += np.multiply(norm_difference, scale, out=term)
            new_peak = np.maximum(peak[side, p], exponent.max(axis=1))
            exponent -= new_peak[:, None]
            total[side, p] *= np.exp(peak[side, p] - new_peak)
            total[side, p] += np.exp(exponent, out=exponent).sum(axis=1)
            peak[side, p] = new_peak


def _estimate(log_ratio: np.ndarray, controls: np.ndarray) -> tuple[float, float]:
    """Return the mean of log_ratio f64[n] and its standard error.

    The controls f64[n, k], of mean 0, are regressed out.
    """
    # With a larger spread, draws too rare to occur dominate the mean of the density ratio. The
    # plain mean is then precise enough: its relative error is at most about 2 / sqrt(n).
    if np.std(log_ratio) < 1.0:
        controls = np.column_stack([controls, np.expm1(-log_ratio)])
    scale = np.abs(controls).max(axis=0)
    controls = controls / np.where(scale > 0, scale, 1.0)
    design = np.column_stack([np.ones(len(log_ratio)), controls])
    # The pseudo-inverse, because a control vanishes with a single example or equal norms.
    inverse = np.linalg.pinv(design)
    coefficients = inverse @ log_ratio
    # The spread differs between draws and a few have a large weight in the fit, so the usual
    # formula would be too small by a third. It is the jackknife (HC3, MacKinnon & White 1985).
    leverage = np.minimum((design * inverse.T).sum(axis=1), 1 - 1e-6)
    left_out = (log_ratio - design @ coefficients) / (1 - leverage)
    return float(coefficients[0]), float(np.sqrt(((inverse[0] * left_out) ** 2).sum()))
