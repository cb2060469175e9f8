"""Timing of programs in separate processes that take turns.

The processes take turns of a few calls, so that other load on the machine affects all of them
equally. They are separate because the threads of two frameworks in one process disturb each other.
"""

import multiprocessing
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any

import numpy as np

WARMUP = 3  # rounds that are not counted
CALLS_A_TURN = 5

# () -> (facts for the report, {name: program}); a program returns when its work is finished
Build = Callable[[], tuple[Any, dict[str, Callable[[], object]]]]


def _worker(build: Build, turns: Connection) -> None:
    """Build the programs of one side, send its facts, then run and time programs on request."""
    facts, programs = build()
    turns.send(facts)
    while name := turns.recv():
        programs[name]()  # not timed: it refills the caches after the turn of the other side
        times = []
        for _ in range(CALLS_A_TURN):
            began = time.perf_counter()
            programs[name]()
            times.append(time.perf_counter() - began)
        turns.send(times)


def take_turns(
    builds: dict[str, Build], asks: dict[str, tuple[str, str]], rounds: int
) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Time programs in turns.

    Args:
      builds: {side: function that builds its programs}; each is pickled and called in its own
        process.
      asks: {label: (side, program)} in the order of a round; every second round is reversed.
      rounds: number of turns of each label.

    Returns:
      ({label: seconds [rounds, CALLS_A_TURN]}, {side: its facts}).
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
    """Return the median ratio of paired turns [rounds, calls] with its 95 % bootstrap interval."""
    ratios = times.mean(axis=1) / others.mean(axis=1)
    rng = np.random.default_rng(0)
    medians = np.median(rng.choice(ratios, (10_000, len(ratios))), axis=1)
    low, high = np.quantile(medians, [0.025, 0.975])
    return f"{np.median(ratios):.3f} [{low:.3f}, {high:.3f}]"
