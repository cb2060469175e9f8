"""How far a run is, for a person: a bar in a terminal, plain lines elsewhere."""

import contextlib
import os
import sys
import time
from typing import TextIO

from tqdm import tqdm

# Seconds between two plain lines: a log of an hour is 360 lines, and yet no run looks stuck.
_LINE_SECONDS = 10.0


class Progress:
    """Step, stage, loss, images/s and time left.

    In a terminal a bar; elsewhere a plain line for the first update, after every 10 seconds, at
    every change of stage, and for the last update.

    Args:
      total_steps: steps of the whole run.
      start_step: steps done before, in [0, total_steps).
      active: False on the processes that shall be silent.
      unit: what a step is called.
      stream: where to; None: standard error.
    """

    def __init__(
        self,
        total_steps: int,
        start_step: int,
        *,
        active: bool = True,
        unit: str = "step",
        stream: TextIO | None = None,
    ):
        self._total = total_steps
        self._step = self._first_step = start_step
        self._stream = stream = stream or sys.stderr
        self._first_time: float | None = None
        self._printed_step = start_step
        self._printed_time = -float("inf")
        self._stage = self._loss = self._rate = ""
        self._active = active
        self._unit = unit
        self._bar = None
        if self._active and _is_terminal(stream):
            self._bar = tqdm(
                total=total_steps,
                initial=start_step,
                file=stream,
                dynamic_ncols=True,
                bar_format="{percentage:3.0f}% |{bar}| {n_fmt}/{total_fmt}{postfix}",
            )

    def update(
        self,
        step: int,
        *,
        stage: int | None = None,
        num_stages: int | None = None,
        loss: float | None = None,
        images_per_second: float | None = None,
    ) -> None:
        """Show that `step` steps are done; what is not given is shown as it was.

        Args:
          step: steps done, at least those of the update before.
          stage: in [1, num_stages]; shown if both are given.
          num_stages: stages of the curriculum.
          loss: of the step, or a mean.
          images_per_second: of all devices together.
        """
        if not self._active:
            return
        new_stage = False
        if stage is not None and num_stages is not None:
            text = f"stage {stage}/{num_stages}"
            new_stage = text != self._stage
            self._stage = text
        if loss is not None:
            self._loss = f"loss {loss:.4g}"
        if images_per_second is not None:
            self._rate = f"{images_per_second:.4g} images/s"
        now = time.monotonic()
        if self._first_time is None:  # from here, as the first step includes the compilation
            self._first_step, self._first_time = step, now
        advance, self._step = step - self._step, step
        if self._bar is not None:
            self._bar.set_postfix_str(", ".join(self._parts(now)), refresh=False)
            self._bar.update(advance)
        elif new_stage or now >= self._printed_time + _LINE_SECONDS:
            self._print_line(now)

    def message(self, text: str) -> None:
        """Print a line of its own, above the bar where there is one."""
        if self._bar is not None:
            self._bar.write(text, file=self._stream)
        elif self._active:
            with contextlib.suppress(OSError):  # of a log on a disk that is full
                print(text, file=self._stream, flush=True)

    def close(self) -> None:
        """Show the last update and leave the bar where it is."""
        if self._bar is not None:
            self._bar.refresh()
            self._bar.close()
        elif self._active and self._printed_step < self._step:
            self._print_line(time.monotonic())

    def _print_line(self, now: float) -> None:
        self._printed_step, self._printed_time = self._step, now
        self.message(", ".join([f"{self._unit} {self._step}/{self._total}", *self._parts(now)]))

    def _parts(self, now: float) -> list[str]:
        left = f"{self._time_left(now)} left"
        return [part for part in (self._stage, self._loss, self._rate, left) if part]

    def _time_left(self, now: float) -> str:
        """At the mean speed since the first update, "?" where there is none yet."""
        done = self._step - self._first_step
        if self._first_time is None or done == 0:
            return "?"
        return tqdm.format_interval((now - self._first_time) / done * (self._total - self._step))


def _is_terminal(stream: TextIO) -> bool:
    """Whether a bar would be seen: some containers have terminals of 0 x 0, where tqdm is mute."""
    return stream.isatty() and min(os.get_terminal_size(stream.fileno())) > 0
