"""Pictures of a comparison, as PNG bytes."""

import io
from collections.abc import Sequence

import numpy as np

from cdt.comparison.statistics import Arm, difference

_BASELINE = "#444444"
_COLOURS = ("#b5367a", "#2a8c8c", "#e08a2c", "#5b2a86", "#4c78a8", "#7a7a2a", "#c0392b", "#1f8a4c",
            "#8c6d5a", "#d37fb5")  # fmt: skip


def colour(index: int) -> str:
    """Of the arm with that index; the baseline, index 0, is grey."""
    return _BASELINE if index == 0 else _COLOURS[(index - 1) % len(_COLOURS)]


def metric_plot(arms: Sequence[Arm], metric: str) -> bytes:
    """The metric over training steps: mean over seeds, and a band from the best to the worst."""
    figure, axes = _figure(6.4, 4.6)
    for i, arm in enumerate(arms):
        mean = arm.metric.mean(axis=0)
        style = dict(color=colour(i), linewidth=2.2 if i == 0 else 1.6, zorder=3 if i == 0 else 2)
        axes.plot(arm.steps, mean, label=arm.name, marker="o", markersize=3, **style)
        if len(arm.metric) > 1:
            axes.fill_between(
                arm.steps, arm.metric.min(axis=0), arm.metric.max(axis=0),
                color=colour(i), alpha=0.12, linewidth=0,
            )  # fmt: skip
    axes.axhline(arms[0].metric[:, -1].mean(), color=_BASELINE, linewidth=0.8, linestyle=":")
    values = np.concatenate([arm.metric.ravel() for arm in arms])
    if values.min() > 0 and values.max() > 3 * values.min():
        axes.set_yscale("log")
    axes.set_xlabel("training step")
    axes.set_ylabel(metric)
    axes.set_title("Lower is better; bands: best to worst seed", loc="left", fontsize=10)
    figure.legend(loc="outside lower center", ncols=3, frameon=False, fontsize=9)
    return _png(figure)


def difference_plot(arms: Sequence[Arm], metric: str) -> bytes:
    """Each arm's final metric minus the baseline's, with its interval."""
    rest = arms[1:]
    figure, axes = _figure(6.4, 1.3 + 0.42 * len(rest))
    axes.axvline(0, color=_BASELINE, linewidth=1.0)
    for row, arm in enumerate(rest):
        found = difference(arm.metric[:, -1], arms[0].metric[:, -1], len(rest))
        y = len(rest) - row
        each = arm.metric[:, -1] - arms[0].metric[:, -1]
        axes.plot(each, np.full(len(each), y), "|", color=colour(row + 1), markersize=9, alpha=0.6)
        if found.low is not None:
            axes.plot([found.low, found.high], [y, y], color=colour(row + 1), linewidth=2)
        axes.plot([found.mean], [y], "o", color=colour(row + 1), markersize=6)
    axes.set_yticks(range(len(rest), 0, -1), [arm.name for arm in rest])
    axes.set_ylim(0.4, len(rest) + 0.6)
    axes.set_xlabel(f"{metric} minus that of {arms[0].name}: left is better (ticks: seeds)")
    return _png(figure)


def validation_plot(arms: Sequence[Arm]) -> bytes:
    """Each arm's final validation loss per noise cluster, relative to the baseline's."""
    from matplotlib.ticker import MaxNLocator

    figure, axes = _figure(6.4, 4.2)
    base = arms[0].validation.mean(axis=0)
    number = np.arange(1, len(base) + 1)
    axes.axhline(1.0, color=_BASELINE, linewidth=1.2)
    for i, arm in enumerate(arms[1:], 1):
        axes.plot(
            number, arm.validation.mean(axis=0) / base, color=colour(i), marker="o", markersize=3,
            linewidth=1.4, label=arm.name,
        )  # fmt: skip
    axes.xaxis.set_major_locator(MaxNLocator(8, integer=True))
    axes.set_xlabel("noise cluster (1 = least noise, hardest)")
    axes.set_ylabel("relative validation loss")
    axes.set_title(f"Relative to {arms[0].name}; below 1 is better", loc="left", fontsize=10)
    figure.legend(loc="outside lower center", ncols=3, frameon=False, fontsize=9)
    return _png(figure)


def _figure(width: float, height: float):
    # Figure and not pyplot: no global state, no display.
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=120, layout="constrained")
    axes = figure.subplots()
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes


def _png(figure) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return buffer.getvalue()
