"""Draws of the curriculum in every stage against the density restricted to the open clusters."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from cdt.curriculum.clusters import cluster_index, edge_table, snr_edges, uniform_edges
from cdt.curriculum.pacing import fixed, patience
from cdt.curriculum.sampler import curriculum, opening_order
from cdt.diffusion import schedules
from cdt.diffusion.process import ddpm, edm, flow
from cdt.timesteps.base import Density, Draw, Feedback
from cdt.timesteps.independent import independent
from cdt.timesteps.uniform import uniform

FAMILIES = {
    "ddpm": ddpm(schedules.cosine_betas(100)),
    "edm": edm(),
    "flow": flow(schedules.linear_path()),
}


def squared() -> Density:
    """Return a density that is not uniform: F(u) = u^2, p(u) = 2u."""
    cdf = lambda state, u: u**2  # noqa: E731
    return uniform()._replace(
        cdf=cdf,
        objective_cdf=cdf,
        icdf=lambda state, q: jnp.sqrt(q),
        weight=lambda s, u: 3 * u,
    )


DENSITIES = {"uniform": uniform(), "squared": squared()}


def edges_of(kind, process, n):
    if kind == "custom":
        edges = np.array([0, 0.03, 0.2, 0.55, 0.96, 1])
    else:
        snr = snr_edges(process.log_snr, n, process.num_levels)
        edges = uniform_edges(n) if kind == "uniform" else snr
    return edge_table(edges, process.num_levels)


def at_stage(sampler, stage):
    state = sampler.init()
    return state._replace(pacing=state.pacing._replace(stage=jnp.int32(stage)))


ORDERS = ["easy_to_hard", "hard_to_easy", "random", (3, 5, 1, 2, 4)]
KINDS = ["uniform", "snr", "custom"]


def combinations():
    """Yield all combinations of family, spacing, order and density.

    The combinations without the marker `long` contain every pair of values.
    """
    for f, family in enumerate(FAMILIES):
        for k, kind in enumerate(KINDS):
            for o, order in enumerate(ORDERS):
                for d, density in enumerate(DENSITIES):
                    first = (f + k + o) % 3 == 0 and (k + o + d) % 2 == 0
                    marks = [] if first else [pytest.mark.long]
                    yield pytest.param(family, kind, order, density, marks=marks)


@pytest.mark.parametrize("family, kind, order, density", list(combinations()))
def test_draws_of_every_stage_follow_the_restricted_density(family, kind, order, density):
    n, draws = 5, 20_000
    edges = edges_of(kind, FAMILIES[family], n)
    p = DENSITIES[density]
    sampler = curriculum(p, edges, fixed(1, n), order, seed=3)
    opening = opening_order(order, n, seed=3)
    cdf_at_edges = np.asarray(p.cdf((), edges), np.float64)
    mass = np.diff(cdf_at_edges)

    @jax.jit
    def sample(state, key):
        u = sampler.sample(state, key, draws).u
        return u, cluster_index(u, edges), p.cdf((), u)

    for stage in range(1, n + 1):
        drawn = sample(at_stage(sampler, stage), jax.random.key(stage))
        u, index, quantile = (np.asarray(array) for array in drawn)
        is_open = np.isin(np.arange(n), opening[:stage])
        counts = np.bincount(index, minlength=n)
        assert counts[~is_open].sum() == 0
        expected = draws * mass[is_open] / mass[is_open].sum()
        if stage > 1:  # with one open cluster there is nothing to divide
            assert stats.chisquare(counts[is_open], expected).pvalue > 1e-4
        # Within each cluster, F(u) must be uniform.
        for i in np.flatnonzero(is_open):
            inside = (u >= edges[i]) & (u < edges[i + 1])
            low, high = cdf_at_edges[i : i + 2]
            q = (quantile[inside].astype(np.float64) - low) / (high - low)
            if high - low > 1e-3 and len(q) > 20:
                assert stats.kstest(q, "uniform").pvalue > 1e-5


@pytest.mark.parametrize("density", DENSITIES)
def test_last_stage_is_bitwise_the_plain_sampler(density):
    p = DENSITIES[density]
    sampler = curriculum(p, edge_table(uniform_edges(7), None), fixed(1, 7))
    plain = independent(p)
    key = jax.random.key(0)
    ours, theirs = sampler.sample(at_stage(sampler, 7), key, 9999), plain.sample((), key, 9999)
    np.testing.assert_array_equal(ours.u, theirs.u)
    np.testing.assert_array_equal(ours.weight, theirs.weight)


def test_stage_n_of_uniform_clusters_in_closed_form():
    sampler = curriculum(uniform(), edge_table(uniform_edges(8), None), fixed(1, 8))
    key = jax.random.key(1)
    v = np.asarray(jax.random.uniform(key, (5000,), jnp.float32), np.float64)
    for stage in range(1, 9):
        u = sampler.sample(at_stage(sampler, stage), key, 5000).u
        np.testing.assert_allclose(u, 1 - stage / 8 + stage / 8 * v, atol=2e-7)


@pytest.mark.long  # the next test covers the extreme random numbers
@pytest.mark.parametrize("order", ["easy_to_hard", "hard_to_easy"])
def test_no_level_outside_its_range_in_ten_million_draws(order):
    # float32 rounds u up to the upper edge of a narrow stage about once in two million draws.
    n = 64
    edges = edge_table(uniform_edges(n), None)
    sampler = curriculum(uniform(), edges, fixed(1, n), order)
    sample = jax.jit(lambda key, s: sampler.sample(at_stage(sampler, s), key, 1_000_000).u)
    for i in range(10):
        stage = 1 + i % 3
        u = np.asarray(sample(jax.random.key(i), stage))
        low, high = (1 - stage / n, 1.0) if order == "easy_to_hard" else (0.0, stage / n)
        assert u.min() >= low and u.max() < high


def test_extreme_random_numbers_stay_in_an_open_cluster(monkeypatch):
    edges = edge_table(np.array([0.0, 0.1, 0.3, 0.7, 1.0]), None)
    extremes = jnp.array([0.0, 1 - 2.0**-24, 1 - 2.0**-23], jnp.float32)
    monkeypatch.setattr(jax.random, "uniform", lambda key, shape, dtype: extremes)
    for order in ["easy_to_hard", "hard_to_easy", (2, 4, 1, 3)]:
        sampler = curriculum(uniform(), edges, fixed(1, 4), order)
        for stage in range(1, 5):
            u = sampler.sample(at_stage(sampler, stage), jax.random.key(0), 3).u
            assert set(np.asarray(cluster_index(u, edges))) <= set(opening_order(order, 4)[:stage])
            assert np.all((u >= 0) & (u < 1))


def test_one_trace_serves_all_stages():
    traces = []
    sampler = curriculum(uniform(), edge_table(uniform_edges(6), None), patience(1, 6))

    @jax.jit
    def step(state, key, i):
        traces.append(i)
        draw = sampler.sample(state, key, 4)
        return sampler.update(state, draw, Feedback(jnp.ones(4), jnp.ones(4)), i)

    state = sampler.init()
    for i in range(12):
        state = step(state, jax.random.key(i), i)
    assert state.pacing.stage == 6
    assert len(traces) == 1


def test_update_paces_by_the_optimised_loss_and_counts_stage_lengths():
    sampler = curriculum(uniform(), edge_table(uniform_edges(3), None), patience(2, 3))
    state = sampler.init()
    for i, (loss, weight) in enumerate([(4.0, 1.0), (8.0, 0.25), (4.0, 1.0), (9.0, 1.0)]):
        draw = Draw(jnp.full(2, 0.9), jnp.full(2, weight))
        state = sampler.update(state, draw, Feedback(jnp.full(2, loss), jnp.ones(2)), jnp.int32(i))
    # Weighted losses 4, 2, 4, 9: the second is the lowest; two bad steps later stage 2 begins.
    assert state.pacing.stage == 2
    np.testing.assert_array_equal(state.stage_lengths, [4, 0, 0])
    assert sampler.metrics(state)["stage"] == 2


def test_orders():
    np.testing.assert_array_equal(opening_order("easy_to_hard", 3), [2, 1, 0])
    np.testing.assert_array_equal(opening_order("hard_to_easy", 3), [0, 1, 2])
    np.testing.assert_array_equal(opening_order([2, 3, 1], 3), [1, 2, 0])
    first, second = (opening_order("random", 20, seed) for seed in (0, 1))
    assert sorted(first) == list(range(20)) and list(first) != list(second)


@pytest.mark.parametrize(
    ("order", "words"),
    [("easy", "unknown"), ([1, 2, 2], "not a permutation"), ([0, 1, 2], "not a permutation")],
)
def test_wrong_orders(order, words):
    with pytest.raises(ValueError, match=words):
        opening_order(order, 3)
    with pytest.raises(ValueError, match="has 4 stages for 3 clusters"):
        curriculum(uniform(), edge_table(uniform_edges(3), None), fixed(1, 4))
