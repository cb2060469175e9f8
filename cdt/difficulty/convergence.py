"""Convergence of each noise cluster: one model per cluster, trained on its levels only.

Kim et al. 2025 (arXiv 2403.10348) use these curves as a measure of difficulty. They report that
clusters of little noise converge more slowly.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array

from cdt.difficulty.single_cluster import SingleClusterState, single_cluster
from cdt.diffusion.loss import ExampleLoss
from cdt.monitoring.plots import normalised_convergence
from cdt.training.optim import Ema, ema
from cdt.training.state import TrainState
from cdt.training.step import Batch, StepOptions, make_init, make_train_step
from cdt.training.validation import make_validation

PyTree = Any


class ClusterPrograms(NamedTuple):
    """Pure functions that train and validate one cluster; the caller jits them.

    Attributes:
      init: (PRNG key, cluster int32[]) -> state.
      step: (state, batch) -> (state after the step, metrics); the state may be donated.
      validate: (state, batch) -> loss f32[] on the cluster of the state.
    """

    init: Callable[[Array, Array], TrainState]
    step: Callable[[TrainState, Batch], tuple[TrainState, dict[str, Array]]]
    validate: Callable[[TrainState, Batch], Array]


def make_programs(
    training_loss: ExampleLoss,
    validation_loss: ExampleLoss,
    init_params: Callable[[Array], PyTree],
    tx: optax.GradientTransformation,
    edges: np.ndarray,
    seed: int,
    options: StepOptions,
) -> ClusterPrograms:
    """Build the functions that train and validate one cluster.

    The cluster is a traced argument, so one compilation serves all clusters. With one key every
    cluster starts with the same parameters. All validate on the same images and noise, at the same
    relative positions within their intervals.

    Args:
      training_loss: the loss that is optimised, see `cdt.diffusion.loss.ExampleLoss`.
      validation_loss: the loss of the curves, of the same parameters.
      init_params: PRNG key -> params.
      tx: optimizer.
      edges: f32[N+1] of all clusters, from `curriculum.clusters.edge_table`.
      seed: of every random stream; noise and batches are those of ordinary training.
      options: of the train step.
    """
    timesteps = single_cluster(edges)
    averages: Ema = ema({})  # none: the parameters themselves are validated
    fresh = make_init(init_params, tx, averages, timesteps, len(edges) - 1, 1)
    step = make_train_step(training_loss, tx, averages, timesteps, edges, seed, options)

    def init(key: Array, cluster: Array) -> TrainState:
        return fresh(key).replace(timesteps=SingleClusterState(jnp.asarray(cluster, jnp.int32)))

    def validate(state: TrainState, batch: Batch) -> Array:
        # Only this cluster: validating all N would take longer than the training in between.
        ends = jax.lax.dynamic_slice_in_dim(jnp.asarray(edges), state.timesteps.cluster, 2)
        return make_validation(validation_loss, ends, seed, options.to_x0)(state.params, batch)[0]

    return ClusterPrograms(init, step, validate)


def side_by_side(programs: ClusterPrograms) -> ClusterPrograms:
    """Return the same programs for G clusters at once.

    The cluster is int32[G]; state, metrics and loss get a leading axis [G]. All clusters see one
    batch and, with one key, start from the same parameters. The models are independent: with the
    leading axis split over devices, the devices do not communicate.
    """
    return ClusterPrograms(
        jax.vmap(programs.init, in_axes=(None, 0)),
        jax.vmap(programs.step, in_axes=(0, None)),
        jax.vmap(programs.validate, in_axes=(0, None)),
    )


class Curve(NamedTuple):
    """The validation loss of one cluster's model, in plain numbers for JSON.

    Attributes:
      cluster: 0-based.
      steps: training steps of the validations, increasing from 0.
      losses: one per validation.
      bad_steps: steps with NaN or inf in loss or gradient, which changed nothing.
    """

    cluster: int
    steps: list[int]
    losses: list[float]
    bad_steps: int


def train_each_cluster(
    programs: ClusterPrograms,
    batch_at: Callable[[int], Batch],
    validation_batch: Batch,
    key: Array,
    clusters: Sequence[int],
    validation_steps: Sequence[int] | np.ndarray,
    stop: Callable[[], bool] = lambda: False,
    at_once: int | None = None,
) -> Iterator[Curve]:
    """Train cluster after cluster, or G side by side, and yield each curve when it is finished.

    A curve depends only on the key and its cluster, so a study that was stopped can continue with
    the clusters that are missing.

    Args:
      programs: jitted; those of `side_by_side` if `at_once` is given.
      batch_at: step from 0 -> the global batch, the same for every cluster.
      validation_batch: the same for every cluster and step.
      key: PRNG key of the parameters, the same for every cluster.
      clusters: 0-based, in the order in which to train them.
      validation_steps: distinct, increasing, from 0 on; the last one is the length of training.
      stop: called after every step. When it returns True the study ends, and the curves of the
        clusters in progress are lost.
      at_once: G, clusters trained side by side; the last group is filled up with repeats.

    Yields:
      one Curve per cluster.

    Raises:
      ValueError: `validation_steps` does not start at 0 or does not increase.
    """
    validation_steps = [int(step) for step in validation_steps]
    if validation_steps[:1] != [0] or np.any(np.diff(validation_steps) <= 0):
        raise ValueError(
            f"The validation steps {validation_steps} must start at 0 and increase strictly."
        )
    for first in range(0, len(clusters), at_once or 1):
        group = clusters[first : first + (at_once or 1)]
        if at_once is None:
            trained = jnp.int32(group[0])
        else:
            filled_up = [*group, *[group[-1]] * (at_once - len(group))]
            trained = jnp.asarray(filled_up, jnp.int32)
        state = programs.init(key, trained)
        losses, previous = [], None
        for since, until in zip([0, *validation_steps], validation_steps, strict=False):
            for step in range(since, until):
                state, metrics = programs.step(state, batch_at(step))
                # The device is one step ahead of the host, never more.
                if previous is not None:
                    previous.block_until_ready()
                previous = metrics["loss"]
                if stop():
                    return
            losses.append(np.atleast_1d(programs.validate(state, validation_batch)))
        bad_steps = np.atleast_1d(metrics["bad_steps"])
        for i, cluster in enumerate(group):
            curve = [float(loss[i]) for loss in losses]
            yield Curve(cluster, list(validation_steps), curve, int(bad_steps[i]))


# --- Results from the curves ------------------------------------------------------------------


def steps_to(steps: Sequence[int] | np.ndarray, losses: np.ndarray, fraction: float) -> np.ndarray:
    """Return the steps after which a fraction of each loss's drop l(0) - l_end is done.

    Args:
      steps: int[k] of the validations, increasing from 0.
      losses: float[k, N], interpolated linearly; validations with NaN or inf are skipped.
      fraction: in (0, 1], such as 0.9.

    Returns:
      f64[N], the first crossing; NaN for a cluster whose loss has not dropped.

    Raises:
      ValueError: `fraction` outside (0, 1].
    """
    if not 0.0 < fraction <= 1.0:
        raise ValueError(f"The fraction of a drop is {fraction}; it must lie in (0, 1].")
    left = normalised_convergence(np.asarray(losses, np.float64))
    result = np.full(left.shape[1], np.nan)
    for n, curve in enumerate(left.T):
        measured = np.isfinite(curve)
        at, curve = np.asarray(steps)[measured], curve[measured]
        below = np.flatnonzero(curve <= 1 - fraction)
        if below.size:
            k = below[0]  # > 0, as every curve starts at 1
            part = (curve[k - 1] - (1 - fraction)) / (curve[k - 1] - curve[k])
            result[n] = at[k - 1] + part * (at[k] - at[k - 1])
    return result


class Correlation(NamedTuple):
    """Spearman's rank correlation with a bootstrap interval over seeds.

    Attributes:
      rho: in [-1, 1]; NaN if fewer than 3 clusters can be ranked, or all are equal.
      low: lower end of the 95 % interval; None with a single seed.
      high: upper end; None with a single seed.
      seeds: number of seeds S.
      clusters: number of clusters that could be ranked.
    """

    rho: float
    low: float | None
    high: float | None
    seeds: int
    clusters: int


def rank_correlation(difficulty: np.ndarray, resamples: int = 10_000) -> Correlation:
    """Return the rank correlation between the number of a cluster and its difficulty.

    It is negative if clusters of little noise are harder, as the curriculum's paper reports.

    Args:
      difficulty: float[S, N], such as the steps to 90 % for each of S seeds; NaN where unknown. The
        correlation is that of the mean over seeds. A cluster without a value in any seed is left
        out. In the resamples the mean over seeds takes the place of a NaN.
      resamples: number of bootstrap samples of the seeds; the interval spans their percentiles
        2.5 to 97.5. With few seeds there are few distinct resamples and the interval is too narrow.
    """
    difficulty = np.asarray(difficulty, np.float64)
    known = np.isfinite(difficulty).any(axis=0)
    difficulty = difficulty[:, known]
    difficulty = np.where(np.isfinite(difficulty), difficulty, np.nan)
    seeds, clusters = difficulty.shape
    if clusters < 3:
        return Correlation(math.nan, None, None, seeds, clusters)
    mean = np.nanmean(difficulty, axis=0)
    rho = float(_spearman_with_index(mean[None])[0])
    if seeds == 1 or math.isnan(rho):
        return Correlation(rho, None, None, seeds, clusters)
    filled = np.where(np.isnan(difficulty), mean, difficulty)
    chosen = np.random.default_rng(0).integers(seeds, size=(resamples, seeds))
    bootstrap = _spearman_with_index(filled[chosen].mean(axis=1))
    low, high = np.nanpercentile(bootstrap, [2.5, 97.5])
    return Correlation(rho, float(low), float(high), seeds, clusters)


def _spearman_with_index(values: np.ndarray) -> np.ndarray:
    """Return Spearman's correlation f64[R] of each row of f64[R, N] with 1..N."""
    from scipy.stats import rankdata

    ranks = rankdata(values, axis=1)  # equal values get their mean rank
    ranks -= ranks.mean(axis=1, keepdims=True)
    index = np.arange(values.shape[1]) - (values.shape[1] - 1) / 2
    length = np.sqrt((ranks**2).sum(axis=1) * (index**2).sum())
    return ranks @ index / np.where(length > 0, length, np.nan)
