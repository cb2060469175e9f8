"""Times programs in turns, each side in a process of its own.

Each side has a process of its own, as its users have, and the processes take turns of a few calls,
so that whatever else the machine does meets both; in one process the threads of two frameworks
disturb each other.
"""

import multiprocessing
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any

import numpy as np

WARMUP = 3  # rounds that are not counted
CALLS_A_TURN = 5

# () -> (what the side says of itself, its programs by name, each of which runs to its end)
Build = Callable[[], tuple[Any, dict[str, Callable[[], object]]]]


def _worker(build: Build, turns: Connection) -> None:
    """Builds one side and says what it is; then runs and times what it is asked for."""
    facts, programs = build()
    turns.send(facts)
    while name := turns.recv():
        programs[name]()  # what the other side's turn left in the caches is nobody's cost
        times = []
        for _ in range(CALLS_A_TURN):
            began = time.perf_counter()
            programs[name]()
            times.append(time.perf_counter() - began)
        turns.send(times)


def take_turns(
    builds: dict[str, Build], asks: dict[str, tuple[str, str]], rounds: int
) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Times programs side by side.

    Args:
      builds: of each side; must pickle, as each is called in a process of its own.
      asks: label -> (side, its program), in the order of a round; every other round goes backwards.
      rounds: number of turns of each label.

    Returns:
      (seconds [rounds, CALLS_A_TURN] of each label, what each side says of itself)
    """
    context = multiprocessing.get_context("spawn")
    turns, facts = {}, {}
    for side, build in builds.items():
        turns[side], end = context.Pipe()
        context.Process(target=_worker, args=(build, end), daemon=True).start()
        facts[side] = turns[side].recv()
    times = {label: [] for label in asks}
    for i in range(WARMUP + rounds):
        for label, (side, name) in asks.items() if i % 2 else reversed(asks.items()):
            turns[side].send(name)
            turn = turns[side].recv()
            if i >= WARMUP:
                times[label].append(turn)
    for connection in turns.values():
        connection.send(None)
    return {label: np.array(turn) for label, turn in times.items()}, facts


def paired_ratio(times: np.ndarray, others: np.ndarray) -> str:
    """Median ratio of the turns [rounds, calls] of a pair, with its 95 % bootstrap interval."""
    ratios = times.mean(axis=1) / others.mean(axis=1)
    rng = np.random.default_rng(0)
    medians = np.median(rng.choice(ratios, (10_000, len(ratios))), axis=1)
    low, high = np.quantile(medians, [0.025, 0.975])
    return f"{np.median(ratios):.3f} [{low:.3f}, {high:.3f}]"
