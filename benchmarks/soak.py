"""Memory, open files and threads of a long run, to detect leaks.

    python -m benchmarks.soak --workdir=runs/soak [--minutes 30] [--config configs/digits.py] \
      [--set KEY=VALUE ...]

It trains with validation, sample grids, evaluation and checkpoints every few hundred steps, stops
the run with SIGTERM, and expects exit code 75. It compares the medians of minutes 5 to 10 with
those of the last five minutes. Target: memory within 2 %, no additional open files or threads.
"""

import argparse
import os
import pathlib
import signal
import statistics
import subprocess
import sys
import time
from typing import NamedTuple

_WINDOW_SECONDS = 300
_OFTEN = {
    "train.duration": "10_000_000 steps",
    "log.every": "50 steps",
    "validation.every": "200 steps",
    "sample.every": "400 steps",
    "checkpoint.every": "400 steps",
    "evaluate.every": "800 steps",
}


class Reading(NamedTuple):
    """Resources of a process at one time."""

    seconds: float  # since its start
    memory_mib: float  # resident
    open_files: int
    threads: int


def read(pid: int, seconds: float) -> Reading:
    process = pathlib.Path("/proc", str(pid))
    pages = int((process / "statm").read_text().split()[1])
    return Reading(
        seconds,
        pages * os.sysconf("SC_PAGE_SIZE") / 2**20,
        len(os.listdir(process / "fd")),
        len(os.listdir(process / "task")),
    )


def median_between(readings: list[Reading], begin: float, end: float) -> Reading:
    """Return the median of each field over the readings in [begin, end) seconds."""
    chosen = [reading for reading in readings if begin <= reading.seconds < end]
    return Reading(*(statistics.median(values) for values in zip(*chosen, strict=True)))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--workdir", required=True)
    parser.add_argument("--config", default="configs/digits.py")
    parser.add_argument("--minutes", type=float, default=30.0, help="at least 15")
    parser.add_argument("--set", metavar="KEY=VALUE", action="append", default=[], help="config")
    args = parser.parse_args()
    if args.minutes < 15:
        parser.error(f"--minutes is {args.minutes}; it must be at least 15.")
    settings = [f"{key}={value}" for key, value in _OFTEN.items()] + args.set
    command = [sys.executable, "-m", "cdt.main", f"--config={args.config}"]
    command += [f"--workdir={args.workdir}", *(f"--config.{setting}" for setting in settings)]
    run = subprocess.Popen(command)
    began, readings = time.monotonic(), []
    while (seconds := time.monotonic() - began) < 60 * args.minutes:
        if run.poll() is not None:
            print(f"the run ended early with exit code {run.returncode}")
            return 1
        readings.append(read(run.pid, seconds))
        time.sleep(2)
    run.send_signal(signal.SIGTERM)
    code = run.wait(timeout=60)
    end = readings[-1].seconds
    first = median_between(readings, _WINDOW_SECONDS, 2 * _WINDOW_SECONDS)
    last = median_between(readings, end - _WINDOW_SECONDS, end)
    print(f"exit code {code}; {len(readings)} readings in {end / 60:.1f} minutes")
    for begin in range(0, int(end) - _WINDOW_SECONDS // 2, _WINDOW_SECONDS):
        memory = median_between(readings, begin, begin + _WINDOW_SECONDS).memory_mib
        print(f"minutes {begin // 60:2d} to {begin // 60 + 5:2d}: {memory:.1f} MiB")
    for name in Reading._fields[1:]:
        before, after = getattr(first, name), getattr(last, name)
        most = max(getattr(reading, name) for reading in readings)
        print(
            f"{name}: {before:.1f} in minutes 5 to 10, {after:.1f} in the last five "
            f"({100 * (after / before - 1):+.2f} %), at most {most:.1f}"
        )
    return 0 if code == 75 else 1


if __name__ == "__main__":
    sys.exit(main())
