import csv
import io
import json
import math

import numpy as np
import pytest

from cdt import from_config
from cdt.config import check_keys, default_config
from cdt.curriculum.clusters import custom_edges, edge_table
from cdt.curriculum.sampler import opening_order
from cdt.difficulty.convergence import Correlation
from cdt.difficulty.relative_entropy import RelativeEntropy
from cdt.difficulty.verdict import (
    contrast,
    convergence_csv,
    converges_more_slowly,
    entropy_csv,
    entropy_is_larger,
    fitted_curriculum,
    fitted_edges,
    fitted_order,
    study_verdict,
)


def entropy(values, error=0.0, alone=0):
    values = np.asarray(values, float)
    n = len(values)
    u = np.arange(1, n + 1) / (n + 1)
    return RelativeEntropy(
        u,
        1 / (n + 1),
        values,
        np.full(n, error),
        2 * values,
        np.arange(n) < alone,
        1.5,
        100,
        300,
        12,
    )


YES = Correlation(-0.9, -1.0, -0.4, 3, 8)
NO = Correlation(0.5, 0.1, 0.8, 3, 8)
OPEN = Correlation(-0.2, -0.6, 0.3, 3, 8)
ONE = Correlation(-1.0, None, None, 1, 8)
NONE = Correlation(math.nan, None, None, 2, 1)


def test_convergence_is_decided_by_the_interval_alone():
    answers = [converges_more_slowly(found) for found in (YES, NO, OPEN, ONE, NONE)]
    assert answers == ["yes", "no", "undecided", "undecided", "undecided"]


def test_entropy_is_decided_outside_the_single_point_region_by_two_standard_errors():
    falling, rising = [9.0, 8, 4, 3, 2, 1], [9.0, 8, 1, 2, 3, 4]
    assert contrast(entropy(falling, 0.1, alone=2))[:3] == pytest.approx((3.5, 1.5, 0.2))
    assert entropy_is_larger(contrast(entropy(falling, 0.1, alone=2))) == "yes"
    assert entropy_is_larger(contrast(entropy(rising, 0.1, alone=2))) == "no"
    assert entropy_is_larger(contrast(entropy(falling, 0.6, alone=2))) == "undecided"
    assert entropy_is_larger(contrast(entropy(falling, 0.1, alone=6))) == "undecided"
    # The middle one of an odd number of pairs is in neither half.
    assert contrast(entropy([5, 100, 1]))[:2] == (5, 1)


def test_verdict_says_what_was_found_as_plainly_for_as_against():
    falling, rising = entropy([4.0, 3, 2, 1], 0.01, alone=1), entropy([1.0, 2, 3, 4], 0.01)
    text = study_verdict("digits, flow", YES, falling)
    assert text.startswith("digits, flow: Do clusters of little noise converge more slowly? Yes.")
    assert "larger at little noise? Yes. It is 3 nats per dimension in the cleaner" in text
    assert "and 1 in the noisier half" in text
    assert "Levels u < 0.3 are left out" in text and "is isolated" in text
    text = study_verdict("x", NO, rising)
    assert "more slowly? No. Clusters of much noise converge more slowly" in text
    assert "little noise? No. It is 1.5 nats" in text and "left out" not in text
    text = study_verdict("x", OPEN, entropy([1.0, 1, 1, 1], 0.1))
    assert "more slowly? Undecided. The interval includes 0" in text
    assert "little noise? Undecided. It is 1 nats" in text
    assert "one seed gives no interval" in study_verdict("x", ONE)
    assert "nothing to rank" in study_verdict("x", NONE)
    assert "each is isolated" in study_verdict("x", None, entropy([1.0, 1], alone=2))
    assert "Only one pair" in study_verdict("x", None, entropy([1.0, 1], alone=1))
    assert (
        study_verdict("x") == "x: Convergence was not measured. Relative entropy was not measured."
    )
    assert "\n" not in text


def test_equal_difficulty_gives_equal_clusters():
    flat = entropy(np.full(50, 0.3))
    for n in (1, 4, 10):
        np.testing.assert_allclose(fitted_edges(flat, n, None), np.arange(n + 1) / n, atol=1e-6)
        np.testing.assert_allclose(fitted_edges(flat, n, 1000), np.arange(n + 1) / n, atol=5e-4)


def test_edges_cut_the_length_into_equal_parts():
    """sqrt(KL) proportional to 2u has length u^2, so the edges are at sqrt(i/N)."""
    u = np.arange(1, 2000) / 2000
    edges = fitted_edges(entropy((2 * u) ** 2), 5, None)
    np.testing.assert_allclose(edges, np.sqrt(np.arange(6) / 5), atol=1e-3)


def test_edges_hardly_depend_on_how_many_pairs_were_measured():
    """sqrt(KL) proportional to 1/u, as at the clean end of DDPM, by every 50th pair and by all."""
    every = entropy(np.arange(1.0, 1000.0) ** -2)
    some = every._replace(u=every.u[::50], nats_per_dim=every.nats_per_dim[::50])
    np.testing.assert_allclose(
        fitted_edges(some, 10, 1000), fitted_edges(every, 10, 1000), atol=2.1e-3
    )


@pytest.mark.parametrize("num_levels", [None, 1000, 20])
def test_edges_are_accepted_however_steep_the_profile(num_levels):
    for values in (10.0 ** -np.arange(0, 60, 2.0), 10.0 ** np.arange(0, 60, 2.0)):
        edges = custom_edges(fitted_edges(entropy(values), 20, num_levels))
        table = edge_table(edges, num_levels)
        assert len(table) == 21
        if num_levels:
            np.testing.assert_allclose(edges * num_levels, np.rint(edges * num_levels), atol=1e-9)


def test_what_cannot_be_fitted():
    with pytest.raises(ValueError, match="between 1 and 20"):
        fitted_edges(entropy([1.0, 2.0]), 21, 20)
    with pytest.raises(ValueError, match="between 1"):
        fitted_edges(entropy([1.0, 2.0]), 0, None)
    with pytest.raises(ValueError, match="0 at all levels"):
        fitted_edges(entropy([0.0, -1.0]), 4, None)
    with pytest.raises(ValueError, match="dropped"):
        fitted_order(np.array([0, 0.5, 1]), np.array([0, 0.5, 1]), np.full(2, np.nan))


def test_the_fastest_cluster_opens_first():
    edges = np.arange(5) / 4
    assert fitted_order(edges, edges, [9.0, 1.0, 7.0, 3.0]) == [2, 4, 3, 1]
    assert fitted_order(edges, edges, np.ones(4)) == [4, 3, 2, 1]  # the paper's
    # With other edges than those of the study difficulties are means over u: 10, 2.8 and 1.
    order = fitted_order(np.array([0.0, 0.1, 0.6, 1.0]), np.array([0, 0.2, 1.0]), [10.0, 1.0])
    assert order == [3, 2, 1]
    # Unknown clusters have the difficulty of their nearest known neighbour.
    known = fitted_order(edges, edges, [np.nan, 1.0, 7.0, np.nan])
    assert known == [2, 1, 4, 3]


@pytest.mark.parametrize("family", ["flow", "ddpm"])
def test_the_config_accepts_what_was_fitted(family):
    config = default_config()
    config.process.name = family
    model = from_config.model(config)
    fitted = fitted_curriculum(
        entropy(1 / np.arange(1.0, 60) ** 2),
        6,
        model.process.num_levels,
        np.arange(5) / 4,
        [4, 2, 1, 3],
    )
    for key, value in fitted.items():
        config.curriculum[key] = tuple(value) if isinstance(value, list) else value
    check_keys(config)
    _, edges = from_config.timestep_sampler(
        config, model.process, model.prediction, open_all_at=100
    )
    np.testing.assert_allclose(edges, fitted["edges"], atol=1e-6)
    order = [int(n) for n in fitted["order"].split(",")]
    assert sorted(opening_order(order, 6)) == list(range(6))
    json.dumps(fitted)
    assert fitted_curriculum(entropy([1.0, 2.0]), 3, None)["order"] == "easy_to_hard"


def test_tables_come_back():
    measured = entropy([0.1 + 0.2, 1e-9], 0.1, alone=1)
    rows = list(csv.DictReader(io.StringIO(entropy_csv(measured))))
    assert [float(row["nats_per_dim"]) for row in rows] == [0.1 + 0.2, 1e-9]
    assert [row["single_point"] for row in rows] == ["True", "False"]

    steps = {"steps_to_50": np.array([[1.5, 2.0]]), "steps_to_90": np.array([[3.0, np.nan]])}
    text = convergence_csv(np.array([0.0, 0.25, 1.0], np.float32), steps)
    rows = list(csv.DictReader(io.StringIO(text)))
    assert [(row["cluster"], row["u_to"]) for row in rows] == [("1", "0.25"), ("2", "1.0")]
    assert [row["steps_to_90"] for row in rows] == ["3.0", ""]
