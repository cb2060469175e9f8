"""What a finished comparison leaves: comparison.json, comparison.csv and one page."""

import csv
import io
from collections.abc import Mapping, Sequence
from typing import Any

from etils import epath

from cdt.comparison import charts, paired_differences
from cdt.comparison.arm import Arm, History, read_arm
from cdt.comparison.page import page
from cdt.files import atomic
from cdt.files.plain_json import to_json

# What the names of metrics are called where people read them.
_TITLES = {
    "frechet_spatial": "spatial Frechet",
    "kernel": "kernel distance",
    "inception_score": "Inception Score",
    "validation_loss": "validation loss",
}


def write_report(
    title: str,
    space: str,
    averages: Mapping[str, str],
    histories: Mapping[str, Sequence[History]],
    grids: Mapping[str, bytes],
    conditions: Mapping[str, str],
    path: epath.Path,
) -> list[str]:
    """Compare the arms with the first; return a sentence on each of the others.

    Args:
      title: of the page.
      space: feature space of the evaluations, such as "pixels".
      averages: arm -> the parameters that were evaluated, such as "0.9999".
      histories: arm -> of each seed, the records of the finished run; the baseline comes first.
      grids: arm -> PNG of samples of its first seed.
      conditions: what stands beside every number: data, sampler, versions and so on.
      path: the comparison's folder.
    """
    arms = [
        read_arm(name, seeds, f"evaluation_{space}", averages[name])
        for name, seeds in histories.items()
    ]
    baseline, comparisons = arms[0], len(arms) - 1
    metric = f"Frechet distance ({space})"
    verdicts = [
        paired_differences.arm_verdict(arm, baseline, metric, comparisons) for arm in arms[1:]
    ]
    records = [_record(arm, baseline, comparisons) for arm in arms]
    conditions = dict(conditions) | {
        "intervals": f"paired t over seeds, 95 % for all {comparisons} comparisons (Bonferroni); "
        "those of the other metrics are not corrected for the number of metrics",
    }
    for arm in arms:
        if arm.stage_lengths is not None:
            conditions[f"stages of {arm.name}, first seed"] = str(arm.stage_lengths[0].tolist())

    results = {
        "metric": metric,
        "conditions": conditions,
        "results": records,
        "verdicts": verdicts,
        "arms": {arm.name: arm for arm in arms},
    }
    atomic.write(path / "comparison.json", to_json(results))
    atomic.write(path / "comparison.csv", _csv(records))
    header = ["arm", "final", "minus baseline", "", "reaches baseline's end", "seconds"]
    text = page(
        title,
        verdicts,
        {
            metric: (header, [_row(record) for record in records]),
            "Other metrics at the end, and minus baseline": _others(arms),
        },
        {
            f"{metric} over training": charts.metric_plot(arms, metric),
            "Final difference": charts.difference_plot(arms, metric),
            "Where it is gained or lost": charts.validation_plot(arms),
            "When it is gained or lost": charts.progress_plot(arms),
        },
        grids,
        conditions,
    )
    atomic.write(path / "index.html", text)
    return verdicts


def _record(arm: Arm, baseline: Arm, comparisons: int) -> dict[str, Any]:
    final = arm.metric[:, -1]
    found = paired_differences.difference(final, baseline.metric[:, -1], comparisons)
    soon = paired_differences.reach(arm, baseline)
    return {
        "arm": arm.name,
        "final_mean": float(final.mean()),
        "final_deviation": float(final.std(ddof=1)) if len(final) > 1 else None,
        "difference": found.mean,
        "low": found.low,
        "high": found.high,
        "verdict": "baseline" if arm is baseline else found.verdict,
        "seeds": len(final),
        "seeds_that_reach_baseline": soon.seeds,
        "steps_to_baseline": soon.steps,
        "share_of_steps": soon.share,
        "share_of_seconds": soon.seconds_share,
        "seconds": float(arm.seconds[:, -1].mean()),
    } | {f"final_{name}": float(values.mean()) for name, values in arm.others.items()}


def _row(record: dict[str, Any]) -> list[str]:
    """The cells of an arm in the page's first table."""
    deviation, low = record["final_deviation"], record["low"]
    final = f"{record['final_mean']:.4g}" + ("" if deviation is None else f" ± {deviation:.2g}")
    change, soon = "", ""
    if record["verdict"] != "baseline":
        change = f"{record['difference']:+.2g}"
        if low is not None:
            change += f" [{low:+.2g}, {record['high']:+.2g}]"
        soon = "never"
        if record["seeds_that_reach_baseline"]:
            soon = (
                f"{record['share_of_steps']:.0%} of steps, {record['share_of_seconds']:.0%} of time"
            )
    return [record["arm"], final, change, record["verdict"], soon, f"{record['seconds']:.0f}"]


def _others(arms: Sequence[Arm]) -> tuple[list[str], list[list[str]]]:
    """(header, rows) of a table: of each other metric mean and deviation over seeds, and below them
    the difference from the baseline with its interval."""
    baseline, comparisons = arms[0], len(arms) - 1
    names = [name for name in baseline.others if not name.endswith(("_error", "_deviation"))]

    def cell(arm: Arm, name: str) -> str:
        values = arm.others[name]
        text = f"{values.mean():.3g}"
        if len(values) > 1:
            text += f" ± {values.std(ddof=1):.2g}"
        if arm is baseline:
            return text
        found = paired_differences.difference(values, baseline.others[name], comparisons)
        text += f"\n{found.mean:+.2g}"
        return text if found.low is None else f"{text} [{found.low:+.2g}, {found.high:+.2g}]"

    header = ["arm", *(_TITLES.get(name, name) for name in names)]
    return header, [[arm.name, *(cell(arm, name) for name in names)] for arm in arms]


def _csv(records: Sequence[Mapping[str, Any]]) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, list(records[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(records)
    return text.getvalue()
