"""Collectives of a compiled program and the bytes they send, read from its HLO text."""

import math
import re
from collections import Counter
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

_KINDS = "all-gather|all-reduce|reduce-scatter|all-to-all|collective-permute|collective-broadcast"
_COMPUTATION = re.compile(r"^(ENTRY )?%?([\w.\-]+) \(.*\) -> (.*) \{$")
_COLLECTIVE = re.compile(rf"= (.*?) ({_KINDS})(-start)?\(")
_WHILE = re.compile(r"\swhile\(.*condition=%?([\w.\-]+), body=%?([\w.\-]+)")
_TRIPS = re.compile(r'"known_trip_count":\{"n":"(\d+)"')
# A loop over a counter: from 0, in equal steps, below a constant.
_CONSTANT = re.compile(r"%?([\w.\-]+) = [su]32\[\]\S* constant\((\d+)\)")
_BELOW = re.compile(r"ROOT .* compare\(%?([\w.\-]+), %?([\w.\-]+)\), direction=LT")
_OPERANDS = r"%?{} = .*? {}\((.*?)\)(?:, index=(\d+))?(?:,|$)"
_CALLED = re.compile(r"(?:to_apply|calls|true_computation|false_computation)=%?([\w.\-]+)")
_BRANCHES = re.compile(r"branch_computations=\{([^}]*)\}")
_SHAPE = re.compile(r"\b(pred|[a-z]+(\d+)\w*)\[([\d,]*)\]")
# XLA:TPU splits a collective over several fusions with products; these have the same chain_id.
_CHAIN = re.compile(r'chain_id="(\d+)"')
# Long computations on a GPU or TPU: matrix products and attention.
_PRODUCT = re.compile(r"__cublas|__cudnn|= \S+ fusion\(.*(?:%dynamic_slice_fusion|kind=kOutput)")
# Groups of devices, in one of three notations.
_LISTED = re.compile(r"(?:replica_groups|source_target_pairs)=\{(\{[\d,{}]*\})?\}")
_IOTA = re.compile(r"replica_groups=\[([\d,]+)\]<=\[([\d,]+)\](?:T\(([\d,]+)\))?")
_MESH = re.compile(
    r"replica_groups=mesh\[([^\]]*)\](?:, device_ids=\(\[([\d,]+)\](?:T\(([\d,]+)\))?\))?"
    r" \{([^}]*)\}"
)


class Collective(NamedTuple):
    """One collective instruction of a program."""

    kind: str  # all-gather, all-reduce, ...
    shapes: tuple[tuple[int, ...], ...]  # of the result on each device
    num_bytes: int  # of the result on each device
    times: int  # number of executions in one run of the program
    overlaps: bool  # True: the device computes matrix products at the same time
    groups: tuple[tuple[int, ...], ...]  # of positions in the mesh; (): one group of all devices
    op_name: str  # the operation in the Python program


def collectives(hlo: str) -> list[Collective]:
    """Return the collectives in `compiled.as_text()` of a CPU, GPU or TPU.

    Raises:
      ValueError: a loop with a collective has no known length.
    """
    bodies, results = _computations(hlo)
    times = _times(bodies)
    found, chains = [], set()
    for name, lines in bodies.items():
        # XLA:TPU writes a reduce-scatter as a fusion of this name with an all-reduce and a slice.
        scatters = name.startswith("all-reduce-scatter")
        for place, line in enumerate(lines):
            match = _COLLECTIVE.search(line)
            if match is None:
                continue
            if chain := _CHAIN.search(line):
                if chain[1] in chains:
                    continue
                chains.add(chain[1])
            if times[name] is None:
                raise ValueError(f"a loop of unknown length contains: {line.strip()[:200]}")
            shapes = _SHAPE.findall(results[name] if scatters else match[1])
            if match[2] == "collective-permute":  # the results of its start include counters
                shapes = [shape for shape in shapes if shape[2]]
            if match[3] and match[2] != "all-reduce":  # the result is (operands, results)
                shapes = shapes[len(shapes) // 2 :]
            dims = tuple(tuple(int(d) for d in s[2].split(",") if d) for s in shapes)
            num_bytes = sum(
                math.prod(d) * int(s[1] or 8) // 8 for d, s in zip(dims, shapes, strict=True)
            )
            op_name = re.search(r'op_name="([^"]*)"', line)
            found.append(
                Collective(
                    kind="reduce-scatter" if scatters else match[2],
                    shapes=dims,
                    num_bytes=num_bytes,
                    times=times[name],
                    overlaps=bool(chain or (match[3] and _overlapped(lines, place))),
                    groups=_groups(line),
                    op_name=op_name[1] if op_name else "",
                )
            )
    return found


def total_bytes(found: Iterable[Collective]) -> Counter:
    """Return {kind: bytes of the results on each device in one run of the program}."""
    total = Counter()
    for collective in found:
        total[collective.kind] += collective.num_bytes * collective.times
    return total


def sent_bytes(collective: Collective, num_devices: int, domain: int) -> tuple[float, float]:
    """Return the bytes that a device sends in one run, within and between domains of fast links.

    The counts are those of an optimal ring. With n devices, each sends (n - 1) / n of the data of a
    gather or scatter, and twice that of a reduction. If a group spans several domains, the devices
    of one domain divide the data, and each sends only its part to other domains.

    Args:
      collective: of a program on `num_devices` devices.
      num_devices: all devices of the program.
      domain: number of consecutive devices that fast links connect.

    Returns:
      (bytes within the domain, bytes to other domains).
    """
    groups = np.array(collective.groups or [range(num_devices)])
    if collective.kind in ("collective-permute", "collective-broadcast"):
        far = np.any(groups // domain != groups[:, :1] // domain)
        size = collective.num_bytes * collective.times
        return (0.0, size) if far else (size, 0.0)
    n = groups.shape[1]
    near = int((groups[0] // domain == groups[0, 0] // domain).sum())
    size = collective.num_bytes * collective.times
    size *= {"all-reduce": 2, "reduce-scatter": n}.get(collective.kind, 1)
    return size * (near - 1) / near, size / near * (1 - near / n)


def _computations(hlo: str) -> tuple[dict[str, list[str]], dict[str, str]]:
    """Return ({computation: lines}, {computation: result shape}); the entry's name is ""."""
    bodies, results, current = {}, {}, None
    for line in hlo.splitlines():
        if header := _COMPUTATION.match(line):
            name = "" if header[1] else header[2]
            current, results[name] = bodies.setdefault(name, []), header[3]
        elif line.startswith("}"):
            current = None
        elif current is not None:
            current.append(line)
    return bodies, results


def _times(bodies: dict[str, list[str]]) -> dict[str, int | None]:
    """Return {computation: executions in one run}; None after a loop of unknown length."""
    times: dict[str, int | None] = dict.fromkeys(bodies, 0)

    def enter(name: str, count: int | None) -> None:
        known = times[name]
        times[name] = None if known is None or count is None else known + count
        for line in bodies[name]:
            if loop := _WHILE.search(line):
                trips = _trips(line, bodies[loop[1]], bodies[loop[2]])
                enter(loop[2], None if trips is None or count is None else count * trips)
            called = _CALLED.findall(line)
            if branches := _BRANCHES.search(line):
                called += [name.strip(" %") for name in branches[1].split(",")]
            for inner in called:
                enter(inner, count)

    enter("", 1)
    return times


def _trips(loop: str, condition: list[str], body: list[str]) -> int | None:
    """Return the number of iterations of a loop, from XLA's annotation or from its counter."""
    if known := _TRIPS.search(loop):
        return int(known[1])
    if (below := _BELOW.search(condition[-1])) is None:
        return None
    limit = _constants(condition).get(below[2])
    counter = _defined(condition, below[1], "get-tuple-element")
    if counter is None:
        return None
    name = re.findall(r"%([\w.\-]+)", body[-1].split(" tuple(")[-1])[int(counter[2])]
    while copied := _defined(body, name, "copy"):
        name = copied[1].lstrip("%")
    added = _defined(body, name, "add")
    steps = re.findall(r"%([\w.\-]+)", added[1]) if added else []
    step = next((_constants(body)[name] for name in steps if name in _constants(body)), None)
    return None if limit is None or step is None else -(-limit // step)


def _defined(lines: list[str], name: str, op: str) -> re.Match | None:
    """Return (operands, index) of an instruction by name and kind."""
    pattern = re.compile(_OPERANDS.format(re.escape(name), op))
    return next((match for line in lines if (match := pattern.search(line))), None)


def _constants(lines: list[str]) -> dict[str, int]:
    return {match[1]: int(match[2]) for line in lines if (match := _CONSTANT.search(line))}


def _overlapped(lines: list[str], start: int) -> bool:
    """Return whether a product is scheduled between the start and the end of a collective."""
    name = lines[start].strip().removeprefix("ROOT ").partition(" = ")[0]
    for line in lines[start + 1 :]:
        if "-done(" in line and f"({name})" in line:
            return False
        if _PRODUCT.search(line):
            return True
    return False


def _groups(line: str) -> tuple[tuple[int, ...], ...]:
    """Return the groups of devices of a collective; () for one group of all devices."""
    if listed := _LISTED.search(line):
        rows = re.findall(r"\{([\d,]+)\}", listed[1] or "")
        return tuple(tuple(_integers(row)) for row in rows)
    if iota := _IOTA.search(line):
        return _rows(_counted(iota[2], iota[3]).reshape(_integers(iota[1])))
    mesh = _MESH.search(line)
    if mesh and ":" not in mesh[4]:  # ":" means a part of an axis, which is not supported
        axes = {name: int(size) for name, size in re.findall(r"'([^']+)'=(\d+)", mesh[1])}
        devices = _counted(mesh[2] or ",".join(map(str, axes.values())), mesh[3])
        inner = [list(axes).index(name) for name in re.findall(r"'([^']+)'", mesh[4])]
        outer = [axis for axis in range(len(axes)) if axis not in inner]
        size = math.prod(list(axes.values())[axis] for axis in inner)
        devices = devices.reshape(list(axes.values())).transpose(outer + inner)
        return _rows(devices.reshape(-1, size))
    raise ValueError(f"unknown notation of device groups: {line.strip()[:300]}")


def _counted(shape: str, order: str | None) -> np.ndarray:
    """Return arange in `shape`, with its axes transposed to `order`."""
    dims = _integers(shape)
    counted = np.arange(math.prod(dims)).reshape(dims)
    return counted.transpose(_integers(order)) if order else counted


def _rows(groups: np.ndarray) -> tuple[tuple[int, ...], ...]:
    return tuple(tuple(row) for row in groups.tolist())


def _integers(text: str) -> list[int]:
    return [int(number) for number in text.split(",")]
