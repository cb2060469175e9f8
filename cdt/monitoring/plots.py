"""Pictures of a run: sample grids and convergence per noise cluster, as PNG files."""

import io
import math
import textwrap
from collections.abc import Sequence

import numpy as np
from etils import epath

from cdt.files import atomic


def image_grid(
    images: np.ndarray, columns: int | None = None, scale: int | None = None
) -> np.ndarray:
    """Lay images out row by row, on white, with small gaps.

    Args:
      images: uint8[n, H, W, C], n >= 1.
      columns: images a row; None makes the grid about square.
      scale: each pixel becomes scale x scale pixels; None enlarges images of less than 64 pixels
        to about that size, so that 8x8 digits can be seen.

    Returns:
      uint8[height, width, C].
    """
    n, height, width, channels = images.shape
    columns = columns or math.ceil(math.sqrt(n))
    scale = scale or max(1, round(64 / max(height, width)))
    rows = math.ceil(n / columns)
    height, width = height * scale, width * scale
    gap = max(2, width // 16)
    grid = np.full(
        (rows * (height + gap) + gap, columns * (width + gap) + gap, channels), 255, np.uint8
    )
    for i, image in enumerate(images):
        row, column = divmod(i, columns)
        top, left = gap + row * (height + gap), gap + column * (width + gap)
        enlarged = image.repeat(scale, axis=0).repeat(scale, axis=1)
        grid[top : top + height, left : left + width] = enlarged
    return grid


def captioned_grid(images: np.ndarray, captions: Sequence[str], columns: int) -> np.ndarray:
    """Lay images out row by row, on white, with what each is to show below it.

    Args:
      images: uint8[n, H, W, C], C = 1 or 3, n >= 1; small ones are enlarged to about 128 pixels.
      captions: n; what does not fit into two lines ends in "...".
      columns: images a row.

    Returns:
      uint8[height, width, 3].
    """
    from PIL import Image, ImageDraw, ImageFont

    n, height, width, _ = images.shape
    scale = max(1, round(128 / max(height, width)))
    height, width, font_size = height * scale, width * scale, 12
    font = ImageFont.load_default(font_size)
    cells = np.full((n, height + 2 * (font_size + 3) + 4, width, 3), 255, np.uint8)
    cells[:, :height] = images.repeat(scale, axis=1).repeat(scale, axis=2)
    for cell, caption in zip(cells, captions, strict=True):
        below = Image.fromarray(cell[height:])
        lines = textwrap.wrap(caption, width // 7, max_lines=2, placeholder="...")
        ImageDraw.Draw(below).text((0, 2), "\n".join(lines), fill="black", font=font)
        cell[height:] = np.asarray(below)
    return image_grid(cells, columns, scale=1)


def save_png(path: epath.PathLike, image: np.ndarray) -> None:
    """Write uint8[H, W, C] (C = 1 grey, 3 RGB) to a local or `gs://` path, atomically."""
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image).save(buffer, format="PNG")
    atomic.write(path, buffer.getvalue())


def normalised_convergence(losses: np.ndarray) -> np.ndarray:
    """(l(s) - l_end) / (l(0) - l_end), which falls from 1 to 0: what is left of a loss's drop.

    Args:
      losses: float[k, N], k >= 1 losses over time for each of N clusters.

    Returns:
      float64[k, N]; NaN for a cluster whose loss has not dropped (or is not finite at an
      end), for which it means nothing.
    """
    losses = np.where(np.isfinite(losses), losses, np.nan)
    drop = losses[0] - losses[-1]
    drop = np.where(drop > 0, drop, np.nan)
    return (losses - losses[-1]) / drop


def convergence_plot(
    path: epath.PathLike,
    steps: np.ndarray,
    losses: np.ndarray,
    stage_starts: Sequence[int] = (),
) -> None:
    """Plot the validation loss of each noise cluster over training, raw and normalised.

    Args:
      path: of the PNG, local or `gs://`.
      steps: int[k], k >= 1, at which the losses were taken.
      losses: float[k, N] on fixed images and noise; column 0 is C_1, of least noise.
      stage_starts: steps at which the curriculum opened a further cluster; drawn as faint lines.
    """
    # Figure and not pyplot: no global state, no display, the Agg canvas by default.
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import BoundaryNorm, LinearSegmentedColormap, ListedColormap
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    steps, losses = np.asarray(steps), np.asarray(losses, np.float64)
    num_clusters = losses.shape[1]
    # Dark is least noise. The pale end of the colour map is cut: it would vanish on white.
    base = LinearSegmentedColormap.from_list(
        "clusters", ["#1b1040", "#5b2a86", "#b5367a", "#ee6a5d", "#fdb366"]
    )
    colours = base(np.linspace(0, 1, num_clusters))
    norm = BoundaryNorm(np.arange(num_clusters + 1) + 0.5, num_clusters)

    figure = Figure(figsize=(11, 4.4), dpi=120, layout="constrained")
    left, right = figure.subplots(1, 2)
    curves = normalised_convergence(losses)
    width = 1.4 if num_clusters <= 30 else 0.8
    marker = "o" if len(steps) <= 3 else None  # a single point draws no line
    for axes, values in ((left, losses), (right, curves)):
        for start in stage_starts:
            axes.axvline(start, color="0.85", linewidth=0.6, zorder=0)
        # Easiest first, so that the hard clusters lie on top.
        for i in reversed(range(num_clusters)):
            axes.plot(
                steps, values[:, i], color=colours[i], linewidth=width, marker=marker, markersize=3
            )
        axes.set_xlabel("training step")
        axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
        axes.spines[["top", "right"]].set_visible(False)
        axes.margins(x=0.01)
    finite = losses[np.isfinite(losses)]
    if finite.size and finite.min() > 0:
        left.set_yscale("log")
    left.set_ylabel("validation loss")
    left.set_title("Validation loss per noise cluster", loc="left")
    right.set_ylabel(r"$(\ell(s) - \ell_{end})\ /\ (\ell(0) - \ell_{end})$")
    right.set_title("Convergence: share of the drop still to come", loc="left")
    # Beyond this a curve is noise: its cluster's whole drop is smaller than its fluctuations.
    right.set_ylim(-0.12, 1.12)
    right.axhline(0, color="0.6", linewidth=0.8, zorder=0)
    flat = int(np.isnan(curves[-1]).sum())
    if flat:
        right.text(
            0.98, 0.96, f"not drawn: {flat} of {num_clusters} clusters, whose loss has not dropped",
            transform=right.transAxes, ha="right", va="top", fontsize=8, color="0.4",
        )  # fmt: skip
    if len(stage_starts):
        figure.text(
            0.01, -0.02, "Vertical lines: a further cluster opens.", fontsize=8, color="0.4"
        )
    bar = figure.colorbar(ScalarMappable(norm, ListedColormap(colours)), ax=[left, right], pad=0.01)
    bar.set_ticks(np.unique(np.linspace(1, num_clusters, 6).round()).tolist())
    bar.minorticks_off()
    bar.set_label("cluster (1 = least noise, hardest)")

    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", bbox_inches="tight")
    atomic.write(path, buffer.getvalue())
