"""Pictures of a comparison, as PNG bytes."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from cdt.comparison.arm import Arm
from cdt.comparison.paired_differences import difference

if TYPE_CHECKING:  # matplotlib is imported where it is used
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

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
        width, order = (2.2, 3) if i == 0 else (1.6, 2)
        axes.plot(
            arm.steps, mean, label=arm.name, marker="o", markersize=3,
            color=colour(i), linewidth=width, zorder=order,
        )  # fmt: skip
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
    figure, axes = _figure(6.4, 1.5 + 0.42 * len(rest))
    axes.axvline(0, color=_BASELINE, linewidth=1.0)
    for row, arm in enumerate(rest):
        found = difference(arm.metric[:, -1], arms[0].metric[:, -1], len(rest))
        y = len(rest) - row
        each = arm.metric[:, -1] - arms[0].metric[:, -1]
        axes.plot(each, np.full(len(each), y), "|", color=colour(row + 1), markersize=9, alpha=0.6)
        if found.low is not None and found.high is not None:
            axes.plot([found.low, found.high], [y, y], color=colour(row + 1), linewidth=2)
        axes.plot([found.mean], [y], "o", color=colour(row + 1), markersize=6)
    axes.set_yticks(range(len(rest), 0, -1), [arm.name for arm in rest])
    axes.set_ylim(0.4, len(rest) + 0.6)
    axes.set_xlabel(f"{metric}, minus {arms[0].name}")
    axes.set_title("Left is better; ticks: seeds, bars: intervals", loc="left", fontsize=10)
    return _png(figure)


def validation_plot(arms: Sequence[Arm]) -> bytes:
    """Each arm's final validation loss per noise cluster, relative to the baseline's."""
    from matplotlib.ticker import MaxNLocator

    figure, axes = _figure(6.4, 4.2)
    base = arms[0].validation[:, -1].mean(axis=0)
    number = np.arange(1, len(base) + 1)
    axes.axhline(1.0, color=_BASELINE, linewidth=1.2)
    for i, arm in enumerate(arms[1:], 1):
        axes.plot(
            number, arm.validation[:, -1].mean(axis=0) / base, color=colour(i), marker="o",
            markersize=3, linewidth=1.4, label=arm.name,
        )  # fmt: skip
    axes.xaxis.set_major_locator(MaxNLocator(8, integer=True))
    axes.set_xlabel("noise cluster (1 = least noise, hardest)")
    axes.set_ylabel("relative validation loss")
    axes.set_title(f"Relative to {arms[0].name}; below 1 is better", loc="left", fontsize=10)
    figure.legend(loc="outside lower center", ncols=3, frameon=False, fontsize=9)
    return _png(figure)


def progress_plot(arms: Sequence[Arm]) -> bytes:
    """Each arm's validation loss per noise cluster and step, relative to the baseline's there."""
    from matplotlib.colors import TwoSlopeNorm
    from matplotlib.ticker import MaxNLocator

    base, rest = arms[0].validation.mean(axis=0), arms[1:]
    # Before the first step all arms are alike.
    ratios = [np.log2(arm.validation.mean(axis=0) / base)[1:].T for arm in rest]
    # Levels that a curriculum has not opened yet are far off: they do not set the scale.
    far = max(0.05, float(np.nanquantile(np.abs(ratios), 0.9)))
    columns = min(3, len(rest))
    rows = -(-len(rest) // columns)
    figure = _canvas(0.9 + 2.2 * columns, 0.9 + 1.8 * rows)
    panels = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False)
    for axes in panels.flat[len(rest) :]:
        axes.remove()
    for i, (axes, arm, ratio) in enumerate(zip(panels.flat, rest, ratios, strict=False)):
        image = axes.pcolormesh(
            arm.validation_steps, np.arange(len(ratio) + 1) + 0.5, ratio,
            cmap="RdBu_r", norm=TwoSlopeNorm(0.0, -far, far),
        )  # fmt: skip
        if arm.stage_lengths is not None:
            axes.axvline(arm.stage_lengths[:, :-1].sum(axis=1).mean(), color="#222", linewidth=1)
        axes.set_title(arm.name, fontsize=9, loc="left")
        axes.tick_params(labelbottom=i + columns >= len(rest))  # no panel below
        axes.xaxis.set_major_locator(MaxNLocator(3))
        axes.yaxis.set_major_locator(MaxNLocator(4, integer=True))
    figure.supxlabel("training step; line: every cluster is open", fontsize=9)
    figure.supylabel("noise cluster (1 = least noise)", fontsize=9)
    shown = panels.ravel().tolist()[: len(rest)]
    bar = figure.colorbar(image, ax=shown, shrink=0.8, extend="both")
    bar.set_label(f"log2 of the loss relative to {arms[0].name}", fontsize=9)
    figure.suptitle("Validation loss; blue is lower than the baseline's", x=0.01, ha="left",
                    fontsize=10)  # fmt: skip
    return _png(figure)


def _figure(width: float, height: float) -> tuple[Figure, Axes]:
    figure = _canvas(width, height)
    axes = figure.subplots()
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes


def _canvas(width: float, height: float) -> Figure:
    # Figure and not pyplot: no global state, no display.
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), dpi=120, layout="constrained")


def _png(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return buffer.getvalue()
