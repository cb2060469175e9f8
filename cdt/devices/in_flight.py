"""Steps that the host has started and the devices may not have finished."""

from collections import deque

import jax


class InFlight:
    """Keep the host at most `limit` steps ahead of the devices.

    It waits for the oldest step, not for the newest. So the devices stay busy, and the run reacts
    to a signal within `limit` steps.

    Args:
      limit: at least 1.
    """

    def __init__(self, limit: int):
        self._limit = limit
        self._results: deque[jax.Array] = deque()

    def add(self, result: jax.Array) -> None:
        """Add an array that the newest step returns; wait if too many steps are in flight."""
        self._results.append(result)
        if len(self._results) > self._limit:
            self._results.popleft().block_until_ready()

    def finish(self) -> None:
        """Wait until every step is finished."""
        while self._results:
            self._results.popleft().block_until_ready()
