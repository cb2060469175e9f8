"""The packages of cdt and the imports between them, counted and drawn from the source.

    python docs/figures/rooms.py [PACKAGE_FOLDER] [--picture=FILE]

A package here is a folder or a loose file of cdt. An arrow stands for all import statements of one
package that name another. A package is one level above the highest package that it imports. If
imports form a cycle, its arrow with the fewest imports is an upward arrow.

docs/design.md shows the table and the figure.
"""

import ast
import sys
from collections import Counter, defaultdict
from pathlib import Path
from typing import NamedTuple

Arrows = Counter[tuple[str, str]]  # (importing package, imported package) -> imports

PACKAGE = Path(__file__).parents[2] / "cdt"


class Measures(NamedTuple):
    """The packages in a folder, measured."""

    lines: dict[str, int]  # by package
    arrows: Arrows
    upward: set[tuple[str, str]]
    levels: dict[str, int]  # by package; 1 is the lowest
    longest: tuple[int, str]  # lines and name of the longest function


def measure(package: Path) -> Measures:
    """Measure the packages in a folder from their source."""
    lines: Counter[str] = Counter()
    arrows: Arrows = Counter()
    longest = (0, "")
    for path in sorted(package.rglob("*.py")):
        name = path.relative_to(package).as_posix()
        tree = ast.parse(path.read_text())
        longest = max(longest, *((n, f"{name} {f}") for n, f in _functions(tree)), (0, ""))
        if name in ("__init__.py", "__main__.py"):  # public names and the command
            continue
        part = name.partition("/")[0].removesuffix(".py")
        lines[part] += len(path.read_text().splitlines())
        for used in _imported(tree, package.name):
            if used != part and ((package / used).is_dir() or (package / f"{used}.py").exists()):
                arrows[part, used] += 1
    upward = _upward(arrows)
    downward = {arrow for arrow in arrows if arrow not in upward}
    return Measures(dict(lines), arrows, upward, _levels(set(lines), downward), longest)


def table(measures: Measures) -> str:
    """Return the measures as lines of text."""
    size, largest = max((size, part) for part, size in measures.lines.items())
    rows = {
        "packages and loose files": len(measures.lines),
        "levels": max(measures.levels.values()),
        "imports between packages": len(measures.arrows),
        "upward arrows": len(measures.upward),
        "largest package": f"{largest}, {size} lines",
        "longest function": f"{measures.longest[1]}, {measures.longest[0]} lines",
    }
    return "\n".join(f"{name:26}{value}" for name, value in rows.items())


def draw(measures: Measures, file: Path) -> None:
    """Draw the packages level by level, and the arrows between them, as a PNG."""
    from matplotlib.figure import Figure

    levels = defaultdict(list)
    for part, level in sorted(measures.levels.items()):
        levels[level].append(part)
    width = max(map(len, levels.values()))
    # Levels are shifted left and right in turn, so that arrows do not cross the packages.
    place = {
        part: (((i + 0.5) / len(packages) + (0.3 / len(packages)) * (-1) ** level) * width, level)
        for level, packages in levels.items()
        for i, part in enumerate(packages)
    }
    figure = Figure(figsize=(1.2 * width, 0.8 * len(levels)), dpi=120, layout="constrained")
    axes = figure.subplots()
    for (source, target), count in measures.arrows.items():
        up = (source, target) in measures.upward
        axes.annotate(
            "", place[target], place[source],
            arrowprops={
                "arrowstyle": "-|>", "color": "#e0602c" if up else "#5b2a86",
                "alpha": 0.9 if up else min(0.2 + 0.05 * count, 0.6), "shrinkA": 14, "shrinkB": 14,
                "connectionstyle": "arc3,rad=0.06", "linewidth": 0.9,
            },
        )  # fmt: skip
    for part, (x, y) in place.items():
        axes.text(
            x, y, f"{part}\n{measures.lines[part]:,} lines", ha="center", va="center", fontsize=9,
            linespacing=1.3, zorder=3,
            bbox={"boxstyle": "round,pad=0.45", "facecolor": "white", "edgecolor": "#5b2a86"},
        )  # fmt: skip
    axes.set_xlim(-0.2, width + 0.2)
    axes.set_ylim(0.5, len(levels) + 0.5)
    axes.axis("off")
    figure.savefig(file)


def _functions(tree: ast.Module) -> list[tuple[int, str]]:
    """Return (lines, name) of each function but `default_config`, which is a list of keys."""
    return [
        ((node.end_lineno or node.lineno) - node.lineno + 1, node.name)
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and node.name != "default_config"
    ]


def _imported(tree: ast.Module, package: str) -> list[str]:
    """Return the packages that the import statements of a file name, with repetitions."""
    modules = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            modules += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module == package:
            modules += [f"{package}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            modules.append(node.module or "")
    return [name.split(".")[1] for name in modules if name.startswith(f"{package}.")]


def _reaches(arrows: set[tuple[str, str]], start: str, end: str) -> bool:
    seen, ahead = set(), [start]
    while ahead:
        part = ahead.pop()
        if part == end:
            return True
        if part not in seen:
            seen.add(part)
            ahead += [target for source, target in arrows if source == part]
    return False


def _upward(arrows: Arrows) -> set[tuple[str, str]]:
    """Return the arrows that close cycles, of each cycle the one with the fewest imports."""
    left, upward = set(arrows), set()
    for arrow in sorted(arrows, key=lambda arrow: (arrows[arrow], arrow)):
        if _reaches(left, arrow[1], arrow[0]):
            left.remove(arrow)
            upward.add(arrow)
    return upward


def _levels(packages: set[str], downward: set[tuple[str, str]]) -> dict[str, int]:
    levels: dict[str, int] = {}

    def level(part: str) -> int:
        if part not in levels:
            below = [target for source, target in downward if source == part]
            levels[part] = 1 + max(map(level, below), default=0)
        return levels[part]

    for part in packages:
        level(part)
    return levels


def main(arguments: list[str]) -> None:
    """Print the table of the packages; draw them if --picture is given."""
    folders = [a for a in arguments if not a.startswith("--")]
    measures = measure(Path(folders[0]) if folders else PACKAGE)
    print(table(measures))
    for source, target in sorted(measures.upward):
        print(f"upward: {source} -> {target}")
    for argument in arguments:
        if argument.startswith("--picture="):
            draw(measures, Path(argument.partition("=")[2]))


if __name__ == "__main__":
    main(sys.argv[1:])
