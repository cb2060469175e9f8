"""What a compiled program sends between devices, read from its HLO text."""

import math
import re
from collections import Counter
from typing import NamedTuple

_KINDS = "all-gather|all-reduce|reduce-scatter|all-to-all|collective-permute|collective-broadcast"
_COMPUTATION = re.compile(r"^(ENTRY )?%?([\w.\-]+) \(.*\{$")
_COLLECTIVE = re.compile(rf"= (.*?) ({_KINDS})(-start)?\(")
_WHILE = re.compile(r"\swhile\(.*body=%?([\w.\-]+)")
_TRIPS = re.compile(r'"known_trip_count":\{"n":"(\d+)"')
_CALLED = re.compile(r"(?:to_apply|calls|true_computation|false_computation)=%?([\w.\-]+)")
_BRANCHES = re.compile(r"branch_computations=\{([^}]*)\}")
_SHAPE = re.compile(r"\b(pred|[a-z]+(\d+)\w*)\[([\d,]*)\]")


class Collective(NamedTuple):
    """One instruction, as often as a run of the program meets it."""

    kind: str  # all-gather, all-reduce, ...
    shapes: tuple[tuple[int, ...], ...]  # of the result on each device
    num_bytes: int  # of the result on each device
    times: int  # in loops whose length is known: how often
    op_name: str  # where in the Python program it comes from


def collectives(hlo: str) -> list[Collective]:
    """The collectives of `compiled.as_text()`.

    Raises:
      ValueError: a loop with a collective in it has no known length.
    """
    bodies = _computations(hlo)
    times = _times(bodies)
    found = []
    for name, lines in bodies.items():
        for line in lines:
            match = _COLLECTIVE.search(line)
            if match is None:
                continue
            if times[name] is None:
                raise ValueError(f"a loop of unknown length holds: {line.strip()[:200]}")
            shapes = _SHAPE.findall(match[1])
            if match[3] and match[2] != "all-reduce":  # its result is (operands, results)
                shapes = shapes[len(shapes) // 2 :]
            dims = tuple(tuple(int(d) for d in s[2].split(",") if d) for s in shapes)
            num_bytes = sum(
                math.prod(d) * int(s[1] or 8) // 8 for d, s in zip(dims, shapes, strict=True)
            )
            op_name = re.search(r'op_name="([^"]*)"', line)
            found.append(
                Collective(match[2], dims, num_bytes, times[name], op_name[1] if op_name else "")
            )
    return found


def total_bytes(found: list[Collective]) -> Counter:
    """{kind: bytes of the results on each device in one run of the program}."""
    total = Counter()
    for collective in found:
        total[collective.kind] += collective.num_bytes * collective.times
    return total


def _computations(hlo: str) -> dict[str, list[str]]:
    """{name: its lines}; the entry's name is ""."""
    bodies, current = {}, None
    for line in hlo.splitlines():
        if header := _COMPUTATION.match(line):
            current = bodies.setdefault("" if header[1] else header[2], [])
        elif line.startswith("}"):
            current = None
        elif current is not None:
            current.append(line)
    return bodies


def _times(bodies: dict[str, list[str]]) -> dict[str, int | None]:
    """{name: how often a run enters the computation}; None where a loop's length is not known."""
    times: dict[str, int | None] = dict.fromkeys(bodies, 0)

    def enter(name: str, count: int | None) -> None:
        known = times[name]
        times[name] = None if known is None or count is None else known + count
        for line in bodies[name]:
            if loop := _WHILE.search(line):
                trips = _TRIPS.search(line)
                enter(loop[1], count * int(trips[1]) if trips and count is not None else None)
            called = _CALLED.findall(line)
            if branches := _BRANCHES.search(line):
                called += [name.strip(" %") for name in branches[1].split(",")]
            for inner in called:
                enter(inner, count)

    enter("", 1)
    return times
