"""Progress of a run: a bar in a terminal, plain lines elsewhere."""

import contextlib
import os
import sys
import time
from typing import TextIO

from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

# Seconds from a plain line to one with new values, and to one without.
_VALUE_SECONDS = 5.0
_LINE_SECONDS = 10.0


class Progress:
    """Show the step, the time left, and the stage, loss and images/s where they are new.

    A terminal gets a bar, which shows the newest values and the step they belong to. Elsewhere
    plain lines are printed: for the first update, for new values every 5 seconds, otherwise every
    10 seconds, at each change of stage, and for the last update. A line without new values shows
    the step and the time left only.

    Args:
      total_steps: steps of the whole run.
      start_step: steps done before, in [0, total_steps).
      active: whether this process prints.
      unit: name of a step.
      stream: output; None is standard error.
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
        self._printed_time = self._printed_values_time = -float("inf")
        self._stage: int | None = None
        self._values: list[str] = []
        self._values_step = start_step  # the step that the values belong to
        self._active = active
        self._unit = unit
        self._bar = None
        self._above_bar = contextlib.ExitStack()
        if self._active and _is_terminal(stream):
            self._bar = tqdm(
                total=total_steps,
                initial=start_step,
                file=stream,
                dynamic_ncols=True,
                bar_format="{percentage:3.0f}% |{bar}| {n_fmt}/{total_fmt}{postfix}",
            )
            self._above_bar.enter_context(logging_redirect_tqdm())

    def update(
        self,
        step: int,
        *,
        stage: int | None = None,
        num_stages: int | None = None,
        loss: float | None = None,
        images_per_second: float | None = None,
    ) -> None:
        """Show that `step` steps are done, with the values that are given.

        Args:
          step: steps done, at least those of the update before.
          stage: in [1, num_stages]; shown if both are given.
          num_stages: stages of the curriculum.
          loss: of the step, or a mean.
          images_per_second: of all devices together.
        """
        if not self._active:
            return
        values = []
        new_stage = False
        if stage is not None and num_stages is not None:
            values.append(f"stage {stage}/{num_stages}")
            new_stage, self._stage = stage != self._stage, stage
        if loss is not None:
            values.append(f"loss {loss:.4g}")
        if images_per_second is not None:
            values.append(f"{images_per_second:.4g} images/s")
        if values:
            self._values, self._values_step = values, step
        now = time.monotonic()
        if self._first_time is None:  # from here, because the first step includes compilation
            self._first_step, self._first_time = step, now
        advance, self._step = step - self._step, step
        if self._bar is not None:
            self._bar.set_postfix_str(self._bar_text(now), refresh=False)
            self._bar.update(advance)
        elif (
            new_stage
            or now >= self._printed_time + _LINE_SECONDS
            or (values and now >= self._printed_values_time + _VALUE_SECONDS)
        ):
            self._print_line(now)

    def message(self, text: str) -> None:
        """Print a line, above the bar if there is one."""
        if self._bar is not None:
            self._bar.write(text, file=self._stream)
        elif self._active:
            with contextlib.suppress(OSError):  # a log on a full disk
                print(text, file=self._stream, flush=True)

    def close(self) -> None:
        """Show the last update and leave the bar where it is."""
        if self._bar is not None:
            self._bar.refresh()
            self._bar.close()
            self._above_bar.close()
        elif self._active and self._printed_step < self._step:
            self._print_line(time.monotonic())

    def _print_line(self, now: float) -> None:
        values = self._values if self._values_step == self._step else []
        self._printed_step, self._printed_time = self._step, now
        if values:
            self._printed_values_time = now
        step = f"{self._unit} {self._step}/{self._total}"
        self.message(", ".join([step, *values, *self._time_left(now)]))

    def _bar_text(self, now: float) -> str:
        values = ", ".join(self._values)
        if values and self._values_step != self._step:
            values += f" (step {self._values_step})"
        return ", ".join([*([values] if values else []), *self._time_left(now)])

    def _time_left(self, now: float) -> list[str]:
        """The time left at the mean speed since the first update; empty at the first update."""
        done = self._step - self._first_step
        if self._first_time is None or done == 0:
            return []
        seconds = (now - self._first_time) / done * (self._total - self._step)
        return [f"{tqdm.format_interval(seconds)} left"]


def _is_terminal(stream: TextIO) -> bool:
    """Whether a bar would be visible: in a terminal of 0 x 0, as in some containers, it is not."""
    return stream.isatty() and min(os.get_terminal_size(stream.fileno())) > 0
