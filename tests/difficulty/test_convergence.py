import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from scipy.stats import spearmanr

from cdt.curriculum.clusters import edge_table
from cdt.difficulty.convergence import (
    ClusterPrograms,
    Correlation,
    make_programs,
    rank_correlation,
    side_by_side,
    steps_to,
    train_each_cluster,
)
from cdt.training.step import StepOptions
from cdt.training.validation import make_validation

EDGES = edge_table(np.array([0.0, 0.2, 0.5, 1.0]), None)
LR = 0.05


def example_loss(params, x0, eps, u, condition, key):
    """A parabola that is steeper the larger u is: |w - 1|^2 u."""
    loss = u * jnp.sum((params["w"] - 1.0) ** 2)
    return loss, jnp.ones_like(u)


def batch_at(step):
    return {"image": np.full((32, 2, 2, 1), step % 256, np.uint8), "label": np.zeros(32, np.int32)}


def programs():
    made = make_programs(
        example_loss,
        example_loss,
        lambda key: {"w": jax.random.normal(key, (3,))},
        optax.sgd(LR),
        EDGES,
        0,
        StepOptions(),
    )
    return ClusterPrograms(
        jax.jit(made.init), jax.jit(made.step, donate_argnums=0), jax.jit(made.validate)
    )


def study(**options):
    settings = dict(clusters=range(3), validation_steps=[0, 1, 5, 20])
    return train_each_cluster(
        programs(), batch_at, batch_at(0), jax.random.key(1), **settings | options
    )


def test_each_model_is_trained_and_validated_on_its_own_levels():
    """Gradient descent on the parabola: the distance to the minimum shrinks by 1 - 2 lr E[u]."""
    start = float(jnp.sum((jax.random.normal(jax.random.key(1), (3,)) - 1.0) ** 2))
    for k, curve in enumerate(study()):
        low, high = EDGES[k], EDGES[k + 1]
        middle = (low + high) / 2
        assert curve.cluster == k and curve.steps == [0, 1, 5, 20] and curve.bad_steps == 0
        np.testing.assert_allclose(curve.losses[0], middle * start, rtol=1e-5)
        # The mean u of a batch lies in the cluster, for any levels that are drawn.
        slowest = middle * start * (1 - 2 * LR * low) ** 40
        fastest = middle * start * (1 - 2 * LR * high) ** 40
        assert fastest < curve.losses[-1] < slowest
        expected = middle * start * (1 - 2 * LR * middle) ** 40
        np.testing.assert_allclose(curve.losses[-1], expected, rtol=0.05)


def test_the_grid_is_that_of_validation():
    state = programs().init(jax.random.key(1), 2)
    own = programs().validate(state, batch_at(3))
    everywhere = make_validation(example_loss, EDGES, seed=0)(state.params, batch_at(3))
    np.testing.assert_allclose(own, everywhere[2], rtol=1e-6)


def test_a_study_goes_on_where_it_was_interrupted():
    whole = list(study())
    first = list(itertools.islice(study(), 1))
    rest = list(study(clusters=[1, 2]))
    assert [curve.cluster for curve in rest] == [1, 2]
    assert first + rest == whole
    assert list(study(clusters=[])) == []


def test_a_stopped_study_yields_whole_clusters_only():
    asked = []

    def stop():
        asked.append(None)
        return len(asked) == 25  # in the second cluster of 20 steps

    assert [curve.cluster for curve in study(stop=stop)] == [0]
    assert len(asked) == 25


def test_side_by_side_gives_what_one_after_the_other_gives():
    made = side_by_side(programs())
    both = ClusterPrograms(*map(jax.jit, made))
    settings = dict(clusters=range(3), validation_steps=[0, 1, 5, 20])
    # Three clusters in groups of two: the second group is filled up with a curve that is dropped.
    found = list(
        train_each_cluster(both, batch_at, batch_at(0), jax.random.key(1), **settings, at_once=2)
    )
    for curve, alone in zip(found, study(), strict=True):
        np.testing.assert_allclose(curve.losses, alone.losses, rtol=1e-5)
        assert curve._replace(losses=[]) == alone._replace(losses=[])
    assert both.step._cache_size() == 1


def test_nothing_is_compiled_twice():
    made = programs()
    list(train_each_cluster(made, batch_at, batch_at(0), jax.random.key(1), range(3), [0, 2, 3]))
    assert made.init._cache_size() == made.step._cache_size() == made.validate._cache_size() == 1


def test_what_is_optimised_need_not_be_what_is_shown():
    def distance(params, x0, eps, u, condition, key):
        return jnp.full_like(u, jnp.max(jnp.abs(params["w"] - 1.0))), u

    made = make_programs(
        example_loss, distance, lambda key: {"w": jnp.array([3.0, 1.5])}, optax.sgd(LR), EDGES,
        0, StepOptions(),
    )  # fmt: skip
    (curve,) = train_each_cluster(made, batch_at, batch_at(0), jax.random.key(1), [2], [0, 100])
    assert curve.losses[0] == 2 and 0 < curve.losses[1] < 1e-2


def test_bad_steps_are_counted():
    def bad(params, x0, eps, u, condition, key):
        value = jnp.where(jnp.all(x0 > 0), jnp.nan, 1.0) * jnp.sum(params["w"] ** 2)
        return jnp.full_like(u, value), u

    made = make_programs(
        bad, bad, lambda key: {"w": jnp.ones(2)}, optax.sgd(LR), EDGES, 0, StepOptions()
    )
    batches = [{"image": np.full((4, 2, 2, 1), v, np.uint8), "label": np.zeros(4, np.int32)}
               for v in (0, 255, 0)]  # fmt: skip
    (curve,) = train_each_cluster(
        made, batches.__getitem__, batches[0], jax.random.key(0), [1], [0, 3]
    )
    assert curve.bad_steps == 1 and math.isfinite(curve.losses[-1])


@pytest.mark.parametrize("steps", [[], [1, 2], [0, 5, 5], [0, 3, 2]])
def test_validation_steps_are_checked(steps):
    with pytest.raises(ValueError, match="start at 0"):
        next(study(validation_steps=steps))


def test_steps_to_a_fraction_of_the_drop():
    steps = [0, 10, 30, 40]
    losses = np.array([[5.0, 1.0, 2.0, 1.0], [3.0, 1.0, 3.0, np.nan], [1.5, 1.0, 1.0, 0.2],
                       [1.0, 1.0, 2.5, 0.0]])  # fmt: skip
    # Column 0 falls from 5 to 1: half of the drop is 3, nine tenths 1.4; 1 is flat, 2 has risen.
    np.testing.assert_allclose(steps_to(steps, losses, 0.5)[:3], [10, np.nan, np.nan])
    np.testing.assert_allclose(steps_to(steps, losses, 0.9)[0], 32)
    np.testing.assert_allclose(steps_to(steps, losses, 0.25)[0], 5)
    np.testing.assert_allclose(steps_to(steps, losses, 1.0)[0], 40)
    for fraction in (0.0, 1.1):
        with pytest.raises(ValueError, match="fraction"):
            steps_to(steps, losses, fraction)


def test_a_curve_with_a_gap_is_read_around_it():
    losses = np.array([[4.0], [np.nan], [2.0], [0.0]])
    np.testing.assert_allclose(steps_to([0, 1, 2, 3], losses, 0.5), [2])
    np.testing.assert_allclose(steps_to([0, 1, 2, 3], losses, 0.25), [1])


def test_exponential_curves_give_their_own_time_constants():
    steps = np.arange(0, 4001)
    tau = np.array([10.0, 50.0, 200.0])
    losses = 0.3 + np.exp(-steps[:, None] / tau)
    for fraction in (0.5, 0.9, 0.95):
        np.testing.assert_allclose(
            steps_to(steps, losses, fraction), -tau * np.log(1 - fraction), rtol=1e-3
        )


def test_rank_correlation_is_spearman_s():
    rng = np.random.default_rng(0)
    difficulty = rng.integers(0, 6, (5, 12)).astype(float)  # with equal values
    found = rank_correlation(difficulty)
    np.testing.assert_allclose(found.rho, spearmanr(np.arange(12), difficulty.mean(axis=0))[0])
    assert -1 <= found.low < found.rho < found.high <= 1
    assert found == rank_correlation(difficulty)
    assert (found.seeds, found.clusters) == (5, 12)


def test_perfect_orders_and_a_single_seed():
    falling = np.arange(10.0)[::-1]
    assert rank_correlation(falling[None]) == Correlation(-1.0, None, None, 1, 10)
    agreed = rank_correlation(np.stack([falling, 2 * falling, falling + 1]))
    np.testing.assert_allclose(agreed[:3], -1)
    assert rank_correlation(-falling[None]).rho == 1.0


def test_the_interval_covers_the_truth():
    """If cluster and difficulty are unrelated, 0 is outside the interval in 5 to 25 % of studies
    (bootstrap of a mean over ten seeds)."""
    rng = np.random.default_rng(1)
    outside = 0
    for _ in range(100):
        found = rank_correlation(rng.standard_normal((10, 8)), resamples=400)
        outside += not found.low <= 0 <= found.high
    assert outside < 25


def test_what_cannot_be_ranked():
    unknown = np.full((2, 5), np.nan)
    assert math.isnan(rank_correlation(unknown).rho) and rank_correlation(unknown).low is None
    assert math.isnan(rank_correlation(np.ones((3, 5))).rho)
    partly = np.array([[5.0, np.nan, 3.0, 2.0, np.inf], [4.0, np.nan, np.nan, 1.0, np.nan]])
    found = rank_correlation(partly)
    assert found.clusters == 3 and found.rho == -1
