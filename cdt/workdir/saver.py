"""Saves while a run trains, which may go on where a checkpoint could not be written."""

import logging
from collections.abc import Mapping
from typing import Any

import jax

from cdt.workdir.checkpoint import Checkpointer, NotSaved

PyTree = Any


class Saver:
    """Saves the checkpoints of a run.

    Args:
      checkpoints: of the run.
      meta: JSON object that every checkpoint carries.
      stops: whether the run ends at a checkpoint that could not be written; otherwise a warning is
        logged and it goes on.
    """

    def __init__(self, checkpoints: Checkpointer, meta: Mapping[str, Any], *, stops: bool):
        self.checkpoints = checkpoints
        self._meta = meta
        self._stops = stops

    def save(self, step: int, items: Mapping[str, PyTree], *, required: bool) -> None:
        """Start to save; see `Checkpointer.save`.

        Args:
          step: steps done.
          items: {name: tree of arrays}.
          required: whether a failure ends the run in any case, as that of its last checkpoint does.

        Raises:
          NotSaved: this save failed, or the one before it in the background, and that ends the run.
        """
        self.finish()  # the one before this
        try:
            self.checkpoints.save(step, items, self._meta)
        except NotSaved as error:
            self._go_on(error, required)

    def finish(self, *, required: bool = False) -> None:
        """Wait until everything is written.

        Raises:
          NotSaved: something could not be, and that ends the run.
        """
        try:
            self.checkpoints.wait()
        except NotSaved as error:
            self._go_on(error, required)

    def _go_on(self, error: NotSaved, required: bool) -> None:
        if self._stops or required:
            raise error
        if jax.process_index() == 0:
            logging.warning(f"{error.what}; training goes on (config.checkpoint.on_failure).")
