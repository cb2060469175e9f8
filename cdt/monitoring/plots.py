"""Sample grids and plots of the convergence per noise cluster, as PNG files."""

import io
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from etils import epath

from cdt.files import atomic


def image_grid(
    images: np.ndarray, columns: int | None = None, scale: int | None = None
) -> np.ndarray:
    """Lay images out row by row on white, with small gaps.

    Args:
      images: uint8[n, H, W, C], n >= 1.
      columns: images per row; None makes the grid about square.
      scale: each pixel becomes scale x scale pixels; None enlarges images of less than 64 pixels
        to about that size, so that 8x8 digits can be seen.

    Returns:
      uint8[height, width, C].
    """
    n, height, width, channels = images.shape
    columns = columns or math.ceil(math.sqrt(n))
    scale = scale or _scale(images, _SIDE)
    rows = math.ceil(n / columns)
    height, width = height * scale, width * scale
    gap = _gap(width)
    grid = np.full(
        (rows * (height + gap) + gap, columns * (width + gap) + gap, channels), 255, np.uint8
    )
    for i, image in enumerate(images):
        row, column = divmod(i, columns)
        top, left = gap + row * (height + gap), gap + column * (width + gap)
        enlarged = image.repeat(scale, axis=0).repeat(scale, axis=1)
        grid[top : top + height, left : left + width] = enlarged
    return grid


def headed_grid(images: np.ndarray, heads: Sequence[str]) -> np.ndarray:
    """Lay images out as `image_grid` does, with a text above each column.

    Args:
      images: uint8[n, H, W, C], C = 1 or 3, n >= 1.
      heads: one text per column, which sets the number of columns; a text that does not fit into
        two lines ends in "...".

    Returns:
      uint8[height, width, C]: a strip of texts, and below it the grid of `image_grid`.
    """
    columns = len(heads)
    grid = image_grid(images, columns)
    width = images.shape[2] * _scale(images, _SIDE)
    gap = _gap(width)
    texts = [_wrapped(head, width + gap - 2) for head in heads]
    lines = max(map(len, texts))
    strip = np.full((lines * _LINE_HEIGHT + gap, grid.shape[1], grid.shape[2]), 255, np.uint8)
    for i, text in enumerate(texts):
        left = gap // 2 + i * (width + gap)
        # Heads of one line stand next to the images too.
        top = gap + (lines - len(text)) * _LINE_HEIGHT
        _write(strip[top:, left : left + width + gap], text, centred=True)
    return np.concatenate([strip, grid])


def captioned_grid(
    images: np.ndarray, captions: Sequence[str], columns: int | None = None
) -> np.ndarray:
    """Lay images out row by row on white, each with its caption below it.

    Args:
      images: uint8[n, H, W, C], C = 1 or 3, n >= 1; small ones are enlarged to about 128 pixels.
      captions: n texts; a text that does not fit into two lines ends in "...".
      columns: images per row; None makes the grid about square.

    Returns:
      uint8[height, width, 3].
    """
    n, height, width, _ = images.shape
    scale = _scale(images, 2 * _SIDE)
    height, width = height * scale, width * scale
    cells = np.full((n, height + _MAX_LINES * _LINE_HEIGHT + 4, width, 3), 255, np.uint8)
    cells[:, :height] = images.repeat(scale, axis=1).repeat(scale, axis=2)
    for cell, caption in zip(cells, captions, strict=True):
        _write(cell[height + 2 :], _wrapped(caption, width))
    return image_grid(cells, columns, scale=1)


_SIDE = 64  # pixels that small images are enlarged to
_FONT_SIZE, _LINE_HEIGHT, _MAX_LINES = 12, 15, 2


def _scale(images: np.ndarray, side: int) -> int:
    """Return the whole factor >= 1 that brings images [n, H, W, C] closest to `side` pixels."""
    return max(1, round(side / max(images.shape[1:3])))


def _gap(width: int) -> int:
    """Return the pixels between images of `width` pixels."""
    return max(2, width // 16)


def _font() -> Any:
    from PIL import ImageFont

    return ImageFont.load_default(_FONT_SIZE)


def _wrapped(text: str, width: int) -> list[str]:
    """Break a text into at most two lines of `width` pixels; "..." stands for what is cut off."""
    font = _font()
    lines: list[str] = []
    for word in text.split():
        if lines and font.getlength(f"{lines[-1]} {word}") <= width:
            lines[-1] += f" {word}"
        else:
            lines.append(word)
    if len(lines) > _MAX_LINES:
        lines = [*lines[: _MAX_LINES - 1], " ".join(lines[_MAX_LINES - 1 :])]

    def cut(line: str) -> str:
        if font.getlength(line) <= width:
            return line
        while line and font.getlength(f"{line}...") > width:
            line = line[:-1]
        return f"{line.rstrip()}..."

    return [cut(line) for line in lines]


def _write(area: np.ndarray, lines: Sequence[str], centred: bool = False) -> None:
    """Write lines in black from the top of uint8[H, W, C], C = 1 or 3, in place."""
    from PIL import Image, ImageDraw

    font, (height, width, channels) = _font(), area.shape
    image = Image.new("L", (width, height), 255)
    for i, line in enumerate(lines):
        left = (width - font.getlength(line)) / 2 if centred else 0
        ImageDraw.Draw(image).text((left, i * _LINE_HEIGHT), line, fill=0, font=font)
    area[:] = np.asarray(image)[..., None].repeat(channels, axis=2)


def save_png(path: epath.PathLike, image: np.ndarray) -> None:
    """Write an image to a PNG file, atomically.

    Args:
      path: local or `gs://`.
      image: uint8[H, W, C], C = 1 (grey) or 3 (RGB).
    """
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image).save(buffer, format="PNG")
    atomic.write(path, buffer.getvalue())


def normalised_convergence(losses: np.ndarray) -> np.ndarray:
    """Return the remaining fraction of each loss's drop: 1 at the start, 0 at the end.

    It is (l(s) - l_end) / (l(0) - l_end), where l(s) is the loss at step s.

    Args:
      losses: float[k, N], k >= 1 losses over time of N clusters.

    Returns:
      float64[k, N]; NaN for a cluster whose loss has not dropped or starts or ends with NaN or inf.
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
    """Plot the validation loss of each noise cluster over training, as it is and normalised.

    Args:
      path: of the PNG, local or `gs://`.
      steps: int[k], k >= 1, training steps of the validations.
      losses: float[k, N] on fixed images and noise; column 0 is the cluster of least noise.
      stage_starts: steps at which the curriculum opened another cluster, drawn as faint lines.
    """
    # Figure and not pyplot: no global state, no display, the Agg canvas by default.
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import BoundaryNorm, LinearSegmentedColormap, ListedColormap
    from matplotlib.figure import Figure
    from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter

    steps, losses = np.asarray(steps), np.asarray(losses, np.float64)
    num_clusters = losses.shape[1]
    # Dark is least noise. The map ends before pale colours, which cannot be seen on white.
    base = LinearSegmentedColormap.from_list(
        "clusters", ["#1b1040", "#5b2a86", "#b5367a", "#ee6a5d", "#fdb366"]
    )
    colours = base(np.linspace(0, 1, num_clusters))
    norm = BoundaryNorm(np.arange(num_clusters + 1) + 0.5, num_clusters)

    figure = Figure(figsize=(9.6, 4.2), dpi=140, layout="constrained")
    left, right = figure.subplots(1, 2)
    curves = normalised_convergence(losses)
    width = 1.4 if num_clusters <= 30 else 0.8
    marker = "o" if len(steps) <= 3 else None  # a single point draws no line
    for axes, values in ((left, losses), (right, curves)):
        for start in stage_starts:
            axes.axvline(start, color="0.85", linewidth=0.6, zorder=0)
        # Most noise first: the few curves of least noise, which end highest, lie on top.
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
        left.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        left.yaxis.set_major_formatter("{x:g}")
        left.yaxis.set_minor_formatter(NullFormatter())
    left.set_ylabel("validation loss")
    left.set_title("Validation loss per noise cluster", loc="left")
    right.set_ylabel("(loss - final loss) / (first loss - final loss)")
    right.set_title("Remaining fraction of the drop in loss", loc="left")
    # Cut off: losses that rise before a cluster opens, or fluctuate by more than their drop.
    right.set_ylim(-0.12, 1.12)
    right.axhline(0, color="0.6", linewidth=0.8, zorder=0)
    flat = int(np.isnan(curves[-1]).sum())
    if flat:
        right.text(
            0.98, 0.96, f"not drawn: {flat} of {num_clusters} clusters, whose loss has not dropped",
            transform=right.transAxes, ha="right", va="top", fontsize=9, color="0.25",
        )  # fmt: skip
    if len(stage_starts):
        figure.text(
            0.01, -0.02, "Vertical lines: the curriculum opens another cluster.", fontsize=9,
            color="0.25", va="top",
        )  # fmt: skip
    bar = figure.colorbar(ScalarMappable(norm, ListedColormap(colours)), ax=[left, right], pad=0.01)
    bar.set_ticks(np.unique(np.linspace(1, num_clusters, 6).round()).tolist())
    bar.minorticks_off()
    bar.set_label("noise cluster (1 = least noise)")

    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", bbox_inches="tight")
    atomic.write(path, buffer.getvalue())
