"""Plots of a comparison, as PNG bytes.

They are about five inches wide, so that their text is readable on a phone too.
"""

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

# Each has a contrast of at least 3:1 with white.
_BASELINE = "#333333"
_COLOURS = ("#b5367a", "#00796b", "#b85c00", "#5b2a86", "#2f6db3", "#6b6b00", "#c0392b", "#1f7a3f",
            "#8c564b", "#c2559a")  # fmt: skip
_MARKERS = "os^DvPX<>*"  # of the same arms, for readers who cannot distinguish the colours
_WIDTH = 5.0  # inches


def metric_plot(arms: Sequence[Arm], metric: str) -> bytes:
    """Plot the metric over training steps: the mean over seeds and the range of all seeds.

    Args:
      arms: the baseline first.
      metric: its name, for the y axis.

    Returns:
      a PNG.
    """
    from matplotlib.ticker import LogLocator, NullFormatter

    figure, axes = _figure(_WIDTH, 4.3)
    for i, arm in enumerate(arms):
        mean = arm.metric.mean(axis=0)
        width, order = (2.2, 3) if i == 0 else (1.6, 2)
        axes.plot(
            arm.steps, mean, label=arm.name, linewidth=width, zorder=order, markersize=4,
            color=_colour(i), marker=_marker(i),
        )  # fmt: skip
        if len(arm.metric) > 1:
            axes.fill_between(
                arm.steps, arm.metric.min(axis=0), arm.metric.max(axis=0),
                color=_colour(i), alpha=0.12, linewidth=0,
            )  # fmt: skip
    axes.axhline(arms[0].metric[:, -1].mean(), color=_BASELINE, linewidth=1.0, linestyle=":")
    values = np.concatenate([arm.metric.ravel() for arm in arms])
    if values.min() > 0 and values.max() > 3 * values.min():
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.yaxis.set_major_formatter("{x:g}")
        axes.yaxis.set_minor_formatter(NullFormatter())
    axes.set_xlabel("training step")
    axes.set_ylabel(metric)
    _legend(figure)
    return _png(figure)


def difference_plot(arms: Sequence[Arm], metric: str) -> bytes:
    """Plot each arm's final metric minus the baseline's, with its confidence interval.

    Args:
      arms: the baseline first, at least two.
      metric: its name, for the x axis.

    Returns:
      a PNG.
    """
    rest = arms[1:]
    figure, axes = _figure(_WIDTH, 0.9 + 0.42 * len(rest))
    axes.axvline(0, color=_BASELINE, linewidth=1.0)
    for row, arm in enumerate(rest):
        found = difference(arm.metric[:, -1], arms[0].metric[:, -1], len(rest))
        colour, y = _colour(row + 1), len(rest) - row
        each = arm.metric[:, -1] - arms[0].metric[:, -1]
        axes.plot(each, np.full(len(each), y), "|", color=colour, markersize=10)
        if found.low is not None and found.high is not None:
            axes.plot([found.low, found.high], [y, y], color=colour, linewidth=2)
        axes.plot([found.mean], [y], "o", color=colour, markersize=6)
    axes.set_yticks(range(len(rest), 0, -1), [arm.name for arm in rest])
    axes.set_ylim(0.4, len(rest) + 0.6)
    axes.set_xlabel(f"{metric}\nminus that of {arms[0].name}")
    return _png(figure)


def validation_plot(arms: Sequence[Arm]) -> bytes:
    """Plot each arm's final validation loss per noise cluster, divided by the baseline's.

    Args:
      arms: the baseline first, at least two.

    Returns:
      a PNG.
    """
    from matplotlib.ticker import MaxNLocator

    figure, axes = _figure(_WIDTH, 4.3)
    base = arms[0].validation[:, -1].mean(axis=0)
    number = np.arange(1, len(base) + 1)
    axes.axhline(1.0, color=_BASELINE, linewidth=1.2)
    for i, arm in enumerate(arms[1:], 1):
        axes.plot(
            number, arm.validation[:, -1].mean(axis=0) / base, label=arm.name, linewidth=1.4,
            markersize=4, color=_colour(i), marker=_marker(i),
        )  # fmt: skip
    axes.xaxis.set_major_locator(MaxNLocator(8, integer=True))
    axes.set_xlabel("noise cluster (1 = least noise)")
    axes.set_ylabel(f"validation loss / that of {arms[0].name}")
    _legend(figure)
    return _png(figure)


def progress_maps(arms: Sequence[Arm]) -> dict[str, bytes]:
    """Draw each arm's validation loss per noise cluster and step, divided by the baseline's.

    Args:
      arms: the baseline first, at least two.

    Returns:
      name of an arm -> PNG of its heat map, for each arm but the baseline. All have one scale of
      colours.
    """
    base, rest = arms[0].validation.mean(axis=0), arms[1:]
    # Before the first step all arms are equal.
    ratios = [np.log2(arm.validation.mean(axis=0) / base)[1:].T for arm in rest]
    # Clusters that a curriculum has not opened yet are far off. They must not set the scale.
    far = max(0.05, float(np.nanquantile(np.abs(ratios), 0.9)))
    return {
        arm.name: _progress_map(arm, ratio, far, arms[0].name)
        for arm, ratio in zip(rest, ratios, strict=True)
    }


def _progress_map(arm: Arm, ratio: np.ndarray, far: float, baseline: str) -> bytes:
    """Draw the log2 of a ratio of losses, f64[N, v - 1], in colours from -far to far."""
    from matplotlib.colors import TwoSlopeNorm
    from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator

    figure, axes = _figure(3.6, 3.0)
    image = axes.pcolormesh(
        arm.validation_steps, np.arange(len(ratio) + 1) + 0.5, ratio,
        cmap="RdBu_r", norm=TwoSlopeNorm(0.0, -far, far),
    )  # fmt: skip
    if arm.stage_lengths is not None:
        axes.axvline(arm.stage_lengths[:, :-1].sum(axis=1).mean(), color="#111", linewidth=1.2)
    axes.xaxis.set_major_locator(MaxNLocator(4, integer=True))
    axes.yaxis.set_major_locator(MaxNLocator(5, integer=True))
    axes.set_xlabel("training step")
    axes.set_ylabel("noise cluster\n(1 = least noise)")
    bar = figure.colorbar(image, ax=axes, extend="both", aspect=14)
    bar.ax.yaxis.set_major_locator(FixedLocator([-far, -far / 2, 0, far / 2, far]))
    bar.ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{2**value:.2f}"))
    bar.ax.minorticks_off()
    bar.set_label(f"loss / that of {baseline}")
    return _png(figure)


def _colour(index: int) -> str:
    """Return the colour of the arm with that index; 0 is the baseline."""
    return _BASELINE if index == 0 else _COLOURS[(index - 1) % len(_COLOURS)]


def _marker(index: int) -> str:
    """Return the marker of the arm with that index; 0 is the baseline."""
    return "o" if index == 0 else _MARKERS[(index - 1) % len(_MARKERS)]


def _legend(figure: Figure) -> None:
    figure.legend(loc="outside lower center", ncols=2, frameon=False, fontsize=10)


def _figure(width: float, height: float) -> tuple[Figure, Axes]:
    """Return an empty figure of that size in inches, and its axes."""
    # Figure and not pyplot: no global state, no display.
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=200, layout="constrained")
    axes = figure.subplots()
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes


def _png(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return buffer.getvalue()
