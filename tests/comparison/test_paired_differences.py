"""Statistics and verdicts of a comparison, against scipy, by hand and by simulation."""

import numpy as np
import pytest
from scipy import stats

from cdt.comparison.arm import Arm
from cdt.comparison.paired_differences import arm_verdict, difference, first_crossing, reach


def arm(name, metric, seconds=None, steps=(10, 20, 30)):
    metric = np.asarray(metric, float)
    seconds = np.tile(np.asarray(steps, float), (len(metric), 1)) if seconds is None else seconds
    validation = np.ones((len(metric), 2, 4))
    return Arm(
        name, np.array(steps), metric, np.asarray(seconds), np.array([0, 30]), validation, None, {}
    )


BASE = arm("uniform", [[9, 5, 3.0], [8, 6, 4.0], [9, 5, 3.5]])


@pytest.mark.parametrize("comparisons", [1, 4])
def test_the_interval_is_that_of_the_paired_t_test(comparisons):
    a, b = np.array([1.0, 2.0, 2.5, 4.0]), np.array([1.5, 2.2, 3.1, 4.1])
    found = difference(a, b, comparisons)
    level = 1 - 0.05 / comparisons
    low, high = stats.ttest_rel(a, b).confidence_interval(level)
    np.testing.assert_allclose([found.low, found.high], [low, high])
    assert found.mean == pytest.approx(-0.35)
    assert found.verdict == ("better" if high < 0 else "undecided")


def test_without_an_effect_something_is_claimed_in_one_comparison_of_twenty():
    rng = np.random.default_rng(0)
    claims = sum(
        any(difference(*rng.normal(size=(2, 3)), 5).verdict != "undecided" for _ in range(5))
        for _ in range(2000)
    )
    assert claims / 2000 < 0.065


def test_verdicts_on_either_side_and_on_neither():
    base = np.array([3.0, 4.0, 3.5])
    assert difference(base - 1 + [0, 0.01, 0], base).verdict == "better"
    assert difference(base + 1 + [0, 0.01, 0], base).verdict == "worse"
    assert difference(base + [1, -1, 0.2], base).verdict == "undecided"
    alone = difference(base[:1] - 2, base[:1])
    assert (alone.mean, alone.low, alone.verdict) == (-2, None, "undecided")


def test_crossings():
    assert first_crossing([10, 20, 30], np.array([9, 5, 3.0]), 4) == 25
    assert first_crossing([10, 20, 30], np.array([9, 5, 3.0]), 9) == 10
    assert np.isnan(first_crossing([10, 20, 30], np.array([9, 5, 3.0]), 2))


def test_reaching_the_baselines_end():
    faster = arm("curriculum", [[6, 3, 2.0], [7, 4, 3.0], [9, 8, 7.0]])
    found = reach(faster, BASE)
    assert found.seeds == 2 and found.steps == 20
    assert found.fraction_of_steps == pytest.approx(2 / 3)
    assert found.fraction_of_seconds == pytest.approx(2 / 3)
    never = reach(arm("slow", [[9, 9, 9.0]] * 3), BASE)
    assert never.seeds == 0 and np.isnan(never.steps)


def test_sentences_say_worse_as_plainly_as_better():
    better = arm("curriculum", BASE.metric - 2 + 0.01 * np.eye(3))
    worse = arm("hard_to_easy", BASE.metric + 2 + 0.01 * np.eye(3))
    same = arm("same", BASE.metric + np.array([[0, 0, 1], [0, 0, -1], [0, 0, 0.1]]))
    assert "better than uniform" in arm_verdict(better, BASE, "Frechet", 3)
    assert "after 65 % of the steps" in arm_verdict(better, BASE, "Frechet", 3)
    text = arm_verdict(worse, BASE, "Frechet", 3)
    assert "worse than uniform" in text and "never reaches" in text
    text = arm_verdict(same, BASE, "Frechet", 3)
    assert "same: undecided" in text and "with 3 seeds its 95 % interval" in text
    assert "In 1 of 3 seeds it reaches" in text
    one = arm("one", BASE.metric[:1])
    assert "One seed gives no confidence interval" in arm_verdict(
        one, arm("uniform", BASE.metric[:1]), "Frechet", 1
    )
