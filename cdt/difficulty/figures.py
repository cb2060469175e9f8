"""Plots of a difficulty study as PNG files.

`cdt.monitoring.plots.convergence_plot` draws the convergence of its clusters.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
from etils import epath

from cdt.difficulty.relative_entropy import RelativeEntropy
from cdt.monitoring import plots

if TYPE_CHECKING:  # matplotlib is imported where it is used
    from matplotlib.artist import Artist
    from matplotlib.figure import Figure

_MEASURED = "#5b2a86"
# One colour for each fraction of the drop.
_COLOURS = ("#1b1040", "#b5367a", "#f0925a", "#2a8c8c", "#7a7a2a")


def relative_entropy_plot(path: epath.PathLike, families: Mapping[str, RelativeEntropy]) -> None:
    """Plot relative entropy over u, one panel per family.

    The band is two standard errors wide on either side. The thin line is the value of single
    points, an upper bound. The background is grey and the line dotted where the examples are
    isolated, see `RelativeEntropy.single_point`.

    Args:
      path: of the PNG, local or `gs://`.
      families: name -> its relative entropy, at least one.
    """
    figure, axes = _figure(len(families), "relative entropy (nats per dimension)")
    for axis, (name, entropy) in zip(axes, families.items(), strict=True):
        u, value, alone = entropy.u, entropy.nats_per_dim, entropy.single_point
        # A log scale has no place for values <= 0, which are within their error of 0.
        value = np.where(value > 0, value, np.nan)
        error = 2 * entropy.standard_error
        axis.fill_between(
            u, np.maximum(value - error, value / 10), value + error,
            color=_MEASURED, alpha=0.25, linewidth=0,
        )  # fmt: skip
        axis.plot(u, entropy.one_point, color="0.45", linewidth=0.9, label="upper bound")
        last = int(np.max(np.flatnonzero(alone), initial=-1))
        # Both parts of the line include the pair at which they meet.
        axis.plot(u[: last + 2], value[: last + 2], ":", color=_MEASURED, linewidth=1.6)
        axis.plot(
            u[last + 1 :], value[last + 1 :], color=_MEASURED, linewidth=1.6, label="estimate",
            marker="o" if len(u) - last <= 3 else None,
        )  # fmt: skip
        if last >= 0:
            axis.axvspan(
                0, u[last] + entropy.step / 2, color="0.92", linewidth=0, zorder=0,
                label="examples are isolated",
            )  # fmt: skip
        axis.set_yscale("log")
        axis.set_xlim(0, 1)
        axis.set_xlabel("noise level u (0 = clean, 1 = pure noise)")
        axis.set_title(f"{name}, levels {entropy.step:.2g} apart in u", loc="left", fontsize=11)
    _legend(figure, axes)
    _save(path, figure)


def steps_to_plot(path: epath.PathLike, families: Mapping[str, Mapping[str, np.ndarray]]) -> None:
    """Plot the training steps to fractions of each cluster's drop in loss, one panel per family.

    Bars are means over seeds. With several seeds a line spans the smallest to the largest value.

    Args:
      path: of the PNG, local or `gs://`.
      families: name -> label of a fraction, such as "90 %" -> float[S, N] steps, NaN where a loss
        has not dropped.
    """
    figure, axes = _figure(len(families), "training steps")
    for axis, (name, fractions) in zip(axes, families.items(), strict=True):
        width = 0.8 / len(fractions)
        for i, (label, steps) in enumerate(fractions.items()):
            steps = np.asarray(steps, float)
            number = np.arange(1, steps.shape[1] + 1)
            known = np.isfinite(steps).any(axis=0)
            x, steps = number[known] + (i - (len(fractions) - 1) / 2) * width, steps[:, known]
            mean = np.nanmean(steps, axis=0)
            axis.bar(x, mean, width, color=_COLOURS[i % len(_COLOURS)], label=label)
            if len(steps) > 1:
                axis.vlines(
                    x, np.nanmin(steps, axis=0), np.nanmax(steps, axis=0), color="0.2",
                    linewidth=0.9,
                )  # fmt: skip
            for missing in number[~known] if i == 0 else ():
                axis.annotate(
                    "no drop", (missing, 0), rotation=90, ha="center", va="bottom", fontsize=7,
                    color="0.25", xytext=(0, 2), textcoords="offset points",
                )  # fmt: skip
        axis.set_xlim(0.4, len(number) + 0.6)
        axis.set_xticks(number[:: 1 + len(number) // 11])
        axis.set_xlabel("noise cluster (1 = least noise)")
        axis.set_title(name, loc="left", fontsize=11)
    _legend(figure, axes, "fraction of the drop in loss")
    _save(path, figure)


def _figure(panels: int, label: str) -> tuple[Figure, np.ndarray]:
    """Return a figure and its row of panels; the first has the label of the y axis."""
    # Figure and not pyplot: no global state, no display.
    from matplotlib.figure import Figure

    figure = Figure(figsize=(1.2 + 3.8 * panels, 4.0), dpi=140, layout="constrained")
    axes = figure.subplots(1, panels, squeeze=False)[0]
    axes[0].set_ylabel(label)
    for axis in axes:
        axis.spines[["top", "right"]].set_visible(False)
    return figure, axes


def _legend(figure: Figure, axes: np.ndarray, title: str | None = None) -> None:
    """Draw one legend for all panels, below them: no corner is free in every family."""
    entries: dict[str, Artist] = {}
    for axis in axes:
        for handle, label in zip(*axis.get_legend_handles_labels(), strict=True):
            entries.setdefault(label, handle)
    figure.legend(
        entries.values(), entries, loc="outside lower center", ncols=len(entries), frameon=False,
        fontsize=10, title=title,
    )  # fmt: skip


def _save(path: epath.PathLike, figure: Figure) -> None:
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    plots.save_png(path, np.asarray(canvas.buffer_rgba())[..., :3])
