"""The rooms of cdt and the imports between them, counted and drawn from the source.

    python docs/figures/rooms.py [PACKAGE_FOLDER] [--picture=FILE]

A room is a folder or a loose file of the package. An arrow stands for all import statements of
one room that name another. A room stands one floor above the highest room that it imports. An arrow
runs up where it closes a circle: of each circle the arrow with the fewest imports counts.

docs/design.md shows the table and the picture.
"""

import ast
import sys
from collections import Counter, defaultdict
from pathlib import Path
from typing import NamedTuple

Arrows = Counter[tuple[str, str]]  # (from room, to room) -> number of imports

PACKAGE = Path(__file__).parents[2] / "cdt"


class House(NamedTuple):
    """A package, measured."""

    lines: dict[str, int]  # by room
    arrows: Arrows
    upward: set[tuple[str, str]]
    floors: dict[str, int]  # by room; 1 is the lowest
    longest: tuple[int, str]  # lines of the longest function, and which it is


def measure(package: Path) -> House:
    """Measure the package in a folder, by reading its source."""
    lines: Counter[str] = Counter()
    arrows: Arrows = Counter()
    longest = (0, "")
    for path in sorted(package.rglob("*.py")):
        name = path.relative_to(package).as_posix()
        tree = ast.parse(path.read_text())
        longest = max(longest, *((n, f"{name} {f}") for n, f in _functions(tree)), (0, ""))
        if name in ("__init__.py", "__main__.py"):  # names and a command for those outside
            continue
        room = name.partition("/")[0].removesuffix(".py")
        lines[room] += len(path.read_text().splitlines())
        for used in _imported(tree, package.name):
            if used != room and ((package / used).is_dir() or (package / f"{used}.py").exists()):
                arrows[room, used] += 1
    upward = _upward(arrows)
    downward = {arrow for arrow in arrows if arrow not in upward}
    return House(dict(lines), arrows, upward, _floors(set(lines), downward), longest)


def table(house: House) -> str:
    """The measures as lines of text."""
    size, largest = max((size, room) for room, size in house.lines.items())
    rows = {
        "rooms": len(house.lines),
        "floors": max(house.floors.values()),
        "arrows between rooms": len(house.arrows),
        "arrows that run up": len(house.upward),
        "largest room": f"{largest}, {size} lines",
        "longest function": f"{house.longest[1]}, {house.longest[0]} lines",
    }
    return "\n".join(f"{name:22}{value}" for name, value in rows.items())


def draw(house: House, file: Path) -> None:
    """Draw the rooms floor by floor, the modes on top, and their arrows as a PNG."""
    from matplotlib.figure import Figure

    floors = defaultdict(list)
    for room, floor in sorted(house.floors.items()):
        floors[floor].append(room)
    width = max(map(len, floors.values()))
    # Floors are moved to the left and right in turn, so that arrows pass beside the rooms.
    place = {
        room: (((i + 0.5) / len(rooms) + (0.3 / len(rooms)) * (-1) ** floor) * width, floor)
        for floor, rooms in floors.items()
        for i, room in enumerate(rooms)
    }
    figure = Figure(figsize=(1.5 * width, 1.05 * len(floors)), dpi=80, layout="constrained")
    axes = figure.subplots()
    for (source, target), count in house.arrows.items():
        up = (source, target) in house.upward
        axes.annotate(
            "", place[target], place[source],
            arrowprops={
                "arrowstyle": "-|>", "color": "#e0602c" if up else "#5b2a86",
                "alpha": 0.9 if up else min(0.2 + 0.05 * count, 0.6), "shrinkA": 15, "shrinkB": 15,
                "connectionstyle": "arc3,rad=0.06", "linewidth": 0.9,
            },
        )  # fmt: skip
    for room, (x, y) in place.items():
        axes.text(
            x, y, f"{room}\n{house.lines[room]:,} lines", ha="center", va="center", fontsize=8.5,
            linespacing=1.3, zorder=3,
            bbox={"boxstyle": "round,pad=0.45", "facecolor": "white", "edgecolor": "#5b2a86"},
        )  # fmt: skip
    axes.set_xlim(-0.2, width + 0.2)
    axes.set_ylim(0.5, len(floors) + 0.5)
    axes.axis("off")
    figure.savefig(file)


def _functions(tree: ast.Module) -> list[tuple[int, str]]:
    """(lines, name) of each function; `default_config` is a list of keys."""
    return [
        ((node.end_lineno or node.lineno) - node.lineno + 1, node.name)
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and node.name != "default_config"
    ]


def _imported(tree: ast.Module, package: str) -> list[str]:
    """The rooms that the import statements of a file name, with repetitions."""
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
        room = ahead.pop()
        if room == end:
            return True
        if room not in seen:
            seen.add(room)
            ahead += [target for source, target in arrows if source == room]
    return False


def _upward(arrows: Arrows) -> set[tuple[str, str]]:
    """The arrows without which there is no circle, those with the fewest imports first."""
    left, upward = set(arrows), set()
    for arrow in sorted(arrows, key=lambda arrow: (arrows[arrow], arrow)):
        if _reaches(left, arrow[1], arrow[0]):
            left.remove(arrow)
            upward.add(arrow)
    return upward


def _floors(rooms: set[str], downward: set[tuple[str, str]]) -> dict[str, int]:
    floors: dict[str, int] = {}

    def floor(room: str) -> int:
        if room not in floors:
            below = [target for source, target in downward if source == room]
            floors[room] = 1 + max(map(floor, below), default=0)
        return floors[room]

    for room in rooms:
        floor(room)
    return floors


def main(arguments: list[str]) -> None:
    """Print the table of a package, and draw it where --picture is given."""
    folders = [a for a in arguments if not a.startswith("--")]
    house = measure(Path(folders[0]) if folders else PACKAGE)
    print(table(house))
    for source, target in sorted(house.upward):
        print(f"runs up: {source} -> {target}")
    for argument in arguments:
        if argument.startswith("--picture="):
            draw(house, Path(argument.partition("=")[2]))


if __name__ == "__main__":
    main(sys.argv[1:])
