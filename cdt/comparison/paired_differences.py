"""Statistics of arms against a baseline, paired by seed: differences, intervals, steps saved."""

import math
from typing import NamedTuple

import numpy as np

from cdt.comparison.arm import Arm


class Difference(NamedTuple):
    """Final metric of an arm minus the baseline's, paired by seed.

    Attributes:
      mean: the mean over seeds.
      low: lower end of the confidence interval; None with a single seed.
      high: upper end; None with a single seed.
      verdict: "better" | "worse" | "undecided".
    """

    mean: float
    low: float | None
    high: float | None
    verdict: str


class Reach(NamedTuple):
    """When an arm reaches the baseline's final value, paired by seed.

    Attributes:
      seeds: number of seeds that reach it.
      steps: mean over those seeds; NaN if there are none.
      fraction_of_steps: `steps` divided by the baseline's steps.
      fraction_of_seconds: the same of the run time; mean over seeds.
    """

    seeds: int
    steps: float
    fraction_of_steps: float
    fraction_of_seconds: float


def difference(arm: np.ndarray, baseline: np.ndarray, comparisons: int = 1) -> Difference:
    """Return the mean difference over seeds with its confidence interval.

    The interval is that of the paired t test. All `comparisons` intervals hold together with
    probability 95 % (Bonferroni).

    Args:
      arm: f64[S], final values; lower is better.
      baseline: f64[S], of the same seeds.
      comparisons: number of arms that are compared with the baseline.

    Returns:
      a Difference; its verdict is "better" or "worse" only if the whole interval lies on that side
      of 0.
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
    """Return where `values` first fall to `target`; NaN if they never do.

    Args:
      at: float[k], steps or seconds of the evaluations, increasing.
      values: float[k], interpolated linearly between evaluations.
      target: the value to reach.

    Returns:
      a value of `at`. For a curve that starts below the target it is the first one, an upper bound.
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
    """Return the steps and seconds until the arm has the value that the baseline has at its end.

    Args:
      arm: with the seeds of the baseline.
      baseline: the arm to compare with.
    """
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
    """Return a few sentences on how an arm compares with the baseline.

    Args:
      arm: with the seeds of the baseline.
      baseline: the arm to compare with.
      metric: its name, such as "Frechet distance (pixels)".
      comparisons: number of arms that are compared with the baseline.
    """
    found = difference(arm.metric[:, -1], baseline.metric[:, -1], comparisons)
    soon, seeds = reach(arm, baseline), len(arm.metric)
    mean, base = arm.metric[:, -1].mean(), baseline.metric[:, -1].mean()
    values = f"Its final {metric} is {mean:.4g}; that of {baseline.name} is {base:.4g}."
    if found.low is None:
        verdict = f"undecided. {values} One seed gives no confidence interval."
    else:
        interval = f"95 % interval {found.low:+.2g} to {found.high:+.2g}"
        verdict = {
            "better": f"better than {baseline.name}. {values} Difference {found.mean:+.2g}, "
            f"{interval}.",
            "worse": f"worse than {baseline.name}. {values} Difference {found.mean:+.2g}, "
            f"{interval}.",
            "undecided": f"undecided. {values} Difference {found.mean:+.2g}; with {seeds} seeds "
            f"its {interval} includes 0.",
        }[found.verdict]
    if soon.seeds == 0:
        return f"{arm.name}: {verdict} It never reaches the final value of {baseline.name}."
    subject = (
        "It reaches" if soon.seeds == seeds else f"In {soon.seeds} of {seeds} seeds it reaches"
    )
    return (
        f"{arm.name}: {verdict} {subject} the final value of {baseline.name} after "
        f"{100 * soon.fraction_of_steps:.0f} % of the steps."
    )
