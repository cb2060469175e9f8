"""Where the wall-clock time of a run goes."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

# In the order in which they are shown; "idle" is what none of the others took.
KINDS = ("step", "data", "evaluation", "checkpoint", "logging", "compile", "idle")


class Goodput:
    """Seconds of a run by what it did with them.

    Devices work while the host goes on. To time something else, wait for the steps in flight first,
    under "step".

    Args:
      clock: seconds, monotonic.
    """

    def __init__(self, clock: Callable[[], float] = time.perf_counter):
        self._clock = clock
        self._began = clock()
        self._seconds = dict.fromkeys(KINDS[:-1], 0.0)

    @contextmanager
    def of(self, kind: str) -> Iterator[None]:
        """A context whose time is of a kind, one of `KINDS` but "idle"; contexts do not nest."""
        began = self._clock()
        try:
            yield
        finally:
            self._seconds[kind] += self._clock() - began

    @property
    def seconds(self) -> dict[str, float]:
        """Seconds of each of `KINDS` so far."""
        passed = self._clock() - self._began
        return self._seconds | {"idle": max(0.0, passed - sum(self._seconds.values()))}

    def shares(self) -> dict[str, float]:
        """{"goodput/<kind>": fraction of the time so far}; they add up to 1."""
        seconds = self.seconds
        total = sum(seconds.values())
        return {f"goodput/{kind}": spent / total for kind, spent in seconds.items()}

    def table(self) -> str:
        """One line: the fraction of the time and the seconds of each kind that has any."""
        seconds = self.seconds
        total = sum(seconds.values())
        parts = [
            f"{kind} {100 * spent / total:.1f} % ({spent:.1f} s)"
            for kind, spent in seconds.items()
            if spent > 0
        ]
        return f"{total:.1f} s: " + ", ".join(parts)
