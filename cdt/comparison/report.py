"""The files of a comparison: comparison.json, comparison.csv and index.html."""

import csv
import io
from collections.abc import Mapping, Sequence
from typing import Any

from etils import epath

from cdt.comparison import charts, paired_differences
from cdt.comparison.arm import Arm, History, read_arm
from cdt.comparison.page import Gallery, Plot, Table, page
from cdt.files import atomic
from cdt.files.plain_json import to_json

# Names of metrics as the page shows them.
_TITLES = {
    "frechet_spatial": "spatial Frechet distance",
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
    """Compare the arms with the first and write comparison.json, comparison.csv and index.html.

    Args:
      title: of the page.
      space: feature space of the evaluations, such as "pixels".
      averages: arm -> the weights that were evaluated, such as "0.9999".
      histories: arm -> one history per seed, of finished runs; the baseline comes first.
      grids: arm -> PNG of samples of its first seed.
      conditions: what the arms share and how each differs: data, sampler, versions and so on.
      path: the comparison's folder.

    Returns:
      one verdict per arm but the first.
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
        "intervals": f"95 % confidence intervals of paired differences over seeds (t "
        f"distribution), corrected for {comparisons} comparisons (Bonferroni) but not for the "
        "number of metrics",
    }
    for arm in arms:
        if arm.stage_lengths is not None:
            conditions[f"steps per stage of {arm.name}, first seed"] = ", ".join(
                map(str, arm.stage_lengths[0])
            )

    results = {
        "metric": metric,
        "conditions": conditions,
        "results": records,
        "verdicts": verdicts,
        "arms": {arm.name: arm for arm in arms},
    }
    atomic.write(path / "comparison.json", to_json(results))
    atomic.write(path / "comparison.csv", _csv(records))
    text = page(
        title,
        f"Each arm is one way of training. The first arm, {baseline.name}, is the baseline: every "
        f"other arm is compared with it, seed by seed. Number of seeds: {len(baseline.metric)}. "
        "A lower Frechet distance is better.",
        verdicts,
        _tables(metric, arms, records),
        _plots(metric, arms),
        [
            Gallery(
                f"Validation loss during training, divided by that of {baseline.name}",
                "maps",
                charts.progress_maps(arms),
                "Blue: the arm's loss is lower than the baseline's. Red: it is higher. Vertical "
                "line: from this step on, every cluster of the curriculum is open.",
            ),
            Gallery("Samples from the same noise", "grids", grids, "First seed, end of training."),
        ],
        conditions,
    )
    atomic.write(path / "index.html", text)
    return verdicts


def _tables(metric: str, arms: Sequence[Arm], records: Sequence[dict[str, Any]]) -> list[Table]:
    name, seeds = arms[0].name, len(arms[0].metric)
    spread = f"mean ± standard deviation over {seeds} seeds" if seeds > 1 else "one seed"
    brackets = "; in brackets the 95 % confidence interval" if seeds > 1 else ""
    header = ["arm", "at the end", f"difference from {name}", "verdict",
              f"reaches the final value of {name} after", "run time (s)"]  # fmt: skip
    return [
        Table(
            metric,
            header,
            [_row(record) for record in records],
            f"At the end: {spread}. Difference: mean over seeds{brackets}. Negative is better. "
            f"Fractions are those of the steps and of the run time of {name}.",
        ),
        Table(
            "Other metrics at the end of training",
            *_others(arms),
            f"First line: {spread}. Second line: difference from {name}{brackets}. Precision, "
            "recall and Inception Score are better when higher, the others when lower.",
        ),
    ]


def _plots(metric: str, arms: Sequence[Arm]) -> list[Plot]:
    name, seeds = arms[0].name, len(arms[0].metric)
    return [
        Plot(
            f"{metric} during training",
            charts.metric_plot(arms, metric),
            "Lower is better. Lines: mean over seeds. Bands: lowest to highest seed. Dotted line: "
            f"the final value of {name}.",
        ),
        Plot(
            f"Difference from {name} at the end",
            charts.difference_plot(arms, metric),
            "Left of 0 is better. Dots: mean over seeds. Ticks: single seeds."
            + (" Bars: 95 % confidence intervals." if seeds > 1 else ""),
        ),
        Plot(
            "Validation loss per noise cluster at the end",
            charts.validation_plot(arms),
            f"Below 1, the loss of the arm is lower than that of {name}.",
        ),
    ]


def _record(arm: Arm, baseline: Arm, comparisons: int) -> dict[str, Any]:
    """Return the row of an arm in comparison.json and comparison.csv."""
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
        "fraction_of_steps": soon.fraction_of_steps,
        "fraction_of_seconds": soon.fraction_of_seconds,
        "seconds": float(arm.seconds[:, -1].mean()),
    } | {f"final_{name}": float(values.mean()) for name, values in arm.others.items()}


def _row(record: dict[str, Any]) -> list[str]:
    """Return the cells of an arm in the page's first table."""
    deviation, low = record["final_deviation"], record["low"]
    final = f"{record['final_mean']:.4g}" + ("" if deviation is None else f" ± {deviation:.2g}")
    change, soon = "-", "-"
    if record["verdict"] != "baseline":
        change = f"{record['difference']:+.2g}"
        if low is not None:
            change += f" [{low:+.2g}, {record['high']:+.2g}]"
        soon = "never"
        if record["seeds_that_reach_baseline"]:
            soon = (
                f"{100 * record['fraction_of_steps']:.0f} % of the steps\n"
                f"{100 * record['fraction_of_seconds']:.0f} % of the time"
            )
    return [record["arm"], final, change, record["verdict"], soon, f"{record['seconds']:.0f}"]


def _others(arms: Sequence[Arm]) -> tuple[list[str], list[list[str]]]:
    """Return (header, rows) of the table of all metrics but the first one."""
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
