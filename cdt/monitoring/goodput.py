"""Wall-clock time of a run by activity."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

# In the order of the printed table; "idle" is the time of none of the others.
KINDS = ("step", "data", "evaluation", "checkpoint", "logging", "compile", "idle")


class Goodput:
    """Count the seconds of a run by kind of activity.

    Devices work while the host continues. Before timing another kind, wait under "step" for the
    steps in flight.

    Args:
      clock: seconds, monotonic.
    """

    def __init__(self, clock: Callable[[], float] = time.perf_counter):
        self._clock = clock
        self._began = clock()
        self._seconds = dict.fromkeys(KINDS[:-1], 0.0)

    @contextmanager
    def of(self, kind: str) -> Iterator[None]:
        """Count the time of the context as `kind`, one of `KINDS` except "idle"; do not nest."""
        began = self._clock()
        try:
            yield
        finally:
            self._seconds[kind] += self._clock() - began

    @property
    def seconds(self) -> dict[str, float]:
        """The seconds of each of `KINDS` so far."""
        passed = self._clock() - self._began
        return self._seconds | {"idle": max(0.0, passed - sum(self._seconds.values()))}

    def fractions(self) -> dict[str, float]:
        """Return {"goodput/<kind>": fraction of the time so far}; the fractions add up to 1."""
        seconds = self.seconds
        total = sum(seconds.values())
        return {f"goodput/{kind}": spent / total for kind, spent in seconds.items()}

    def table(self) -> str:
        """Return one line with the fraction and the seconds of each kind that took time."""
        seconds = self.seconds
        total = sum(seconds.values())
        parts = [
            f"{kind} {100 * spent / total:.1f} % ({spent:.1f} s)"
            for kind, spent in seconds.items()
            if spent > 0
        ]
        return f"{total:.1f} s: " + ", ".join(parts)
