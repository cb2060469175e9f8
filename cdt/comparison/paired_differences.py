"""Arms against a baseline over the same seeds: differences, intervals, steps saved."""

import math
from typing import NamedTuple

import numpy as np

from cdt.comparison.arm import Arm


class Difference(NamedTuple):
    """Final metric of an arm minus the baseline's, paired by seed."""

    mean: float
    low: float | None  # confidence interval; None with a single seed
    high: float | None
    verdict: str  # "better" | "worse" | "undecided"


class Reach(NamedTuple):
    """How soon an arm reaches the baseline's final value, paired by seed."""

    seeds: int  # that reach it
    steps: float  # mean over those; NaN if none
    share: float  # of the baseline's steps
    seconds_share: float  # of the baseline's wall-clock


def difference(arm: np.ndarray, baseline: np.ndarray, comparisons: int = 1) -> Difference:
    """Paired t interval over seeds, such that those of all comparisons hold together with
    probability 95 % (Bonferroni).

    Args:
      arm, baseline: f64[S] final values of the same seeds; lower is better.
      comparisons: arms that are compared with the baseline.

    Returns:
      "better" or "worse" only if the whole interval lies on that side of 0.
    """
    from scipy.stats import t

    delta = np.asarray(arm, np.float64) - np.asarray(baseline, np.float64)
    mean, n = float(delta.mean()), len(delta)
    if n < 2 or not math.isfinite(mean):
        return Difference(mean, None, None, "undecided")
    quantile = t.ppf(1 - 0.05 / (2 * comparisons), n - 1)
    half = float(quantile * delta.std(ddof=1) / math.sqrt(n))
    low, high = mean - half, mean + half
    verdict = "better" if high < 0 else "worse" if low > 0 else "undecided"
    return Difference(mean, low, high, verdict)


def first_crossing(at: np.ndarray, values: np.ndarray, target: float) -> float:
    """Where `values` first fall to `target`, linear between evaluations; NaN if they never do.

    A curve that starts below the target counts from its first evaluation, which is an upper bound.
    """
    below = np.flatnonzero(np.asarray(values) <= target)
    if below.size == 0:
        return math.nan
    k = below[0]
    if k == 0:
        return float(at[0])
    part = (values[k - 1] - target) / (values[k - 1] - values[k])
    return float(at[k - 1] + part * (at[k] - at[k - 1]))


def reach(arm: Arm, baseline: Arm) -> Reach:
    """Steps and seconds until the arm has the value that the baseline has at its end."""
    targets = baseline.metric[:, -1]
    steps = np.array(
        [first_crossing(arm.steps, m, x) for m, x in zip(arm.metric, targets, strict=True)]
    )
    seconds = np.array(
        [first_crossing(s, m, x) for s, m, x in zip(arm.seconds, arm.metric, targets, strict=True)]
    )
    reached = np.isfinite(steps)
    if not reached.any():
        return Reach(0, math.nan, math.nan, math.nan)
    return Reach(
        int(reached.sum()),
        float(steps[reached].mean()),
        float(steps[reached].mean() / baseline.steps[-1]),
        float(np.mean(seconds[reached] / baseline.seconds[reached, -1])),
    )


def arm_verdict(arm: Arm, baseline: Arm, metric: str, comparisons: int) -> str:
    """One sentence in plain words about an arm."""
    found = difference(arm.metric[:, -1], baseline.metric[:, -1], comparisons)
    soon = reach(arm, baseline)
    mean, base = arm.metric[:, -1].mean(), baseline.metric[:, -1].mean()
    values = f"final {metric} {mean:.4g} against {base:.4g}"
    if found.low is None:
        text = f"undecided: {values}, but one seed says nothing about chance"
    else:
        interval = f"difference {found.mean:+.2g}, interval {found.low:+.2g} to {found.high:+.2g}"
        text = {
            "better": f"better than {baseline.name}: {values} ({interval})",
            "worse": f"worse than {baseline.name}: {values} ({interval})",
            "undecided": f"no difference that {len(arm.metric)} seeds can show: {values} "
            f"({interval})",
        }[found.verdict]
    if soon.seeds == 0:
        return f"{arm.name}: {text}; it never reaches {baseline.name}'s final value."
    of_seeds = (
        "" if soon.seeds == len(arm.metric) else f" in {soon.seeds} of {len(arm.metric)} seeds"
    )
    return (
        f"{arm.name}: {text}; it reaches {baseline.name}'s final value{of_seeds} after "
        f"{soon.share:.0%} of the steps."
    )
