import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cdt.curriculum.clusters import cluster_index, edge_table, uniform_edges
from cdt.difficulty.single_cluster import SingleClusterState, single_cluster
from cdt.timesteps.independent import independent
from cdt.timesteps.uniform import uniform

EDGES = edge_table(np.array([0.0, 0.01, 0.35, 0.9, 1.0]), 1000)


@pytest.mark.parametrize("cluster", range(4))
def test_levels_are_uniform_in_the_state_s_cluster(cluster):
    sampler = single_cluster(EDGES)
    draw = sampler.sample(SingleClusterState(jnp.int32(cluster)), jax.random.key(0), 20_000)
    np.testing.assert_array_equal(cluster_index(draw.u, EDGES), cluster)
    np.testing.assert_array_equal(draw.weight, 1)
    low, high = EDGES[cluster : cluster + 2].astype(np.float64)
    counts, _ = np.histogram(np.asarray(draw.u, np.float64), bins=20, range=(low, high))
    chi_square = ((counts - 1000) ** 2 / 1000).sum()
    assert counts.sum() == 20_000 and chi_square < 43.8  # 0.1 % of a chi-square of 19


def test_a_draw_never_reaches_the_next_cluster(monkeypatch):
    """Even where the product rounds up to the edge."""
    largest = np.float32(1 - 2**-24)
    monkeypatch.setattr(jax.random, "uniform", lambda key, shape, dtype: jnp.full(shape, largest))
    for edges in (EDGES, edge_table(uniform_edges(20), None)):
        for k in range(len(edges) - 1):
            u = single_cluster(edges).sample(SingleClusterState(jnp.int32(k)), None, 1).u
            assert edges[k] <= u[0] < edges[k + 1]


def test_the_whole_range_is_ordinary_training_bitwise():
    whole, key = single_cluster(edge_table(uniform_edges(1), None)), jax.random.key(3)
    ordinary = independent(uniform())
    np.testing.assert_array_equal(
        whole.sample(whole.init(), key, 999).u, ordinary.sample(ordinary.init(), key, 999).u
    )


def test_one_compiled_program_serves_every_cluster():
    sampler = single_cluster(EDGES)
    traces = []

    @jax.jit
    def draw(state):
        traces.append(None)
        return sampler.sample(state, jax.random.key(0), 8).u

    for k in range(4):
        np.testing.assert_array_equal(
            cluster_index(draw(SingleClusterState(jnp.int32(k))), EDGES), k
        )
    assert len(traces) == 1


def test_training_leaves_the_state_alone():
    sampler = single_cluster(EDGES)
    state = SingleClusterState(jnp.int32(2))
    assert sampler.update(state, None, None, jnp.int32(7)) is state
    assert sampler.metrics(state) == {}
    assert int(sampler.init().cluster) == 0
