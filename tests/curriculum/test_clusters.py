"""Edges of clusters, and the cluster of a noise level."""

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cdt.curriculum.clusters import (
    cluster_index,
    custom_edges,
    edge_table,
    snr_edges,
    uniform_edges,
)
from cdt.diffusion import schedules
from cdt.diffusion.process import ddpm, edm, flow

PROCESSES = {
    "ddpm": ddpm(schedules.linear_betas(1000)),
    "cosine": ddpm(schedules.cosine_betas(1000)),
    "edm": edm(),
    "flow": flow(schedules.linear_path()),
    "gvp": flow(schedules.gvp_path()),
}


def test_uniform_edges():
    np.testing.assert_array_equal(uniform_edges(4), [0, 0.25, 0.5, 0.75, 1])


@pytest.mark.parametrize("name", ["edm", "flow", "gvp"])
def test_snr_edges_are_equally_spaced_in_log_snr(name):
    log_snr = PROCESSES[name].log_snr
    edges = snr_edges(log_snr, 8)
    assert edges[0] == 0 and edges[-1] == 1
    ends = log_snr(np.array([0.001, 0.999]))
    np.testing.assert_allclose(log_snr(edges[1:-1]), np.linspace(*ends, 9)[1:-1], rtol=0, atol=1e-4)


def test_snr_edges_of_edm_in_closed_form():
    # log SNR = -2 (P_mean + P_std z), linear in the normal quantile z of u.
    from scipy.stats import norm

    inner = norm.cdf(np.linspace(norm.ppf(0.001), norm.ppf(0.999), 6)[1:-1])
    np.testing.assert_allclose(snr_edges(PROCESSES["edm"].log_snr, 5)[1:-1], inner, atol=1e-7)


@pytest.mark.parametrize(("name", "n"), [("ddpm", 10), ("cosine", 5)])
def test_snr_edges_of_a_discrete_family_are_equally_spaced_in_log_snr(name, n):
    process = PROCESSES[name]
    edges = snr_edges(process.log_snr, n, 1000)
    starts = np.rint(edges[1:-1] * 1000).astype(int)
    np.testing.assert_allclose(edges[1:-1] * 1000, starts, rtol=1e-12)
    snr = process.log_snr((np.arange(1000) + 0.5) / 1000)
    ideal = np.linspace(snr[1], snr[999], n + 1)[1:-1]
    # Each edge is a timestep next to the ideal log-SNR.
    for start, expected in zip(starts, ideal, strict=True):
        assert snr[min(start + 1, 999)] <= expected <= snr[start - 1]


@pytest.mark.parametrize("name", ["ddpm", "cosine"])
@pytest.mark.parametrize("n", [1, 20, 200, 1000])
def test_every_snr_cluster_of_a_discrete_family_has_a_timestep(name, n):
    table = edge_table(snr_edges(PROCESSES[name].log_snr, n, 1000), 1000)
    assert len(table) == n + 1 and table[0] == 0 and table[-1] == 1


@given(levels=st.integers(1, 4096), data=st.data())
@settings(max_examples=60, deadline=None)
def test_snapped_edges_are_the_first_float32_of_their_level(levels, data):
    k = data.draw(st.integers(1, levels)) if levels > 1 else 1
    if k == levels:
        edges = np.array([0.0, 1.0])
    else:
        edges = np.array([0.0, k / levels, 1.0])
    table = edge_table(edges, levels)
    for edge, level in zip(table[1:-1], [k], strict=False):
        assert np.floor(edge * np.float32(levels)) == level
        assert np.floor(np.nextafter(edge, np.float32(0)) * np.float32(levels)) == level - 1


def test_every_level_of_1000_lies_in_its_own_cluster():
    table = edge_table(uniform_edges(1000), 1000)
    process = PROCESSES["ddpm"]
    np.testing.assert_array_equal(process.level(jnp.asarray(table[:-1])), np.arange(1000))
    below = np.nextafter(table[1:], np.float32(0))
    np.testing.assert_array_equal(process.level(jnp.asarray(below)), np.arange(1000))
    middle = process.u(jnp.arange(1000, dtype=jnp.float32))
    np.testing.assert_array_equal(cluster_index(middle, table), np.arange(1000))


def test_cluster_index_against_searchsorted():
    rng = np.random.default_rng(0)
    edges = edge_table(np.concatenate([[0], np.sort(rng.random(12)), [1]]), None)
    u = np.concatenate([rng.random(10_000, np.float32), edges[:-1]])
    np.testing.assert_array_equal(
        cluster_index(jnp.asarray(u), edges), np.searchsorted(edges, u, side="right") - 1
    )


@pytest.mark.parametrize(
    ("edges", "words"),
    [
        ([0, 0.5, 0.5, 1], "strictly increasing"),
        ([0, 0.7, 0.5, 1], "strictly increasing"),
        ([0, 0.5, float("nan"), 1], "strictly increasing"),
        ([0.1, 0.5, 1], "start at 0"),
        ([0, 0.5, 2], "end at 1"),
        ([0], "at least two"),
        ([], "at least two"),
    ],
)
def test_custom_edges_are_checked(edges, words):
    with pytest.raises(ValueError, match=words):
        custom_edges(edges)


def test_too_many_clusters():
    with pytest.raises(ValueError, match="too many"):
        edge_table(uniform_edges(11), 10)
    with pytest.raises(ValueError, match="too many"):
        edge_table(custom_edges([0, 0.0501, 0.0502, 1]), 1000)
    with pytest.raises(ValueError, match="at least 1"):
        uniform_edges(0)


@given(widths=st.lists(st.floats(1e-3, 1.0), min_size=1, max_size=40), data=st.data())
def test_cluster_index_is_a_binary_search(widths, data):
    edges = np.concatenate([[0.0], np.cumsum(widths) / np.sum(widths)])
    edges[-1] = 1.0
    table = edge_table(edges, None)
    below_one = st.floats(0.0, 1.0, width=32, exclude_max=True)
    u = np.array(data.draw(st.lists(below_one, min_size=1, max_size=20)), np.float32)
    u = np.concatenate([u, table[:-1]])  # an edge belongs to the cluster above it
    expected = np.searchsorted(table, u, side="right") - 1
    np.testing.assert_array_equal(cluster_index(jnp.asarray(u), table), expected)
