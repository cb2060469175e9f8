"""Saving during training; training may continue after a checkpoint could not be written."""

import logging
from collections.abc import Mapping
from typing import Any

import jax

from cdt.workdir.checkpoint import Checkpointer, NotSaved

PyTree = Any


class Saver:
    """Saves the checkpoints of a run and handles failures.

    Args:
      checkpoints: of the run.
      meta: JSON object to store in every checkpoint.
      stops: True: a failed save raises; False: it is logged and training continues.
    """

    def __init__(self, checkpoints: Checkpointer, meta: Mapping[str, Any], *, stops: bool):
        self.checkpoints = checkpoints
        self._meta = meta
        self._stops = stops

    def save(self, step: int, items: Mapping[str, PyTree], *, required: bool) -> None:
        """Start a save; see `Checkpointer.save`.

        Args:
          step: number of finished steps.
          items: {name: tree of arrays}.
          required: True: a failure raises in any case, such as for the last checkpoint of a run.

        Raises:
          NotSaved: this save or the previous one failed, and the run must end.
        """
        self.finish()  # the previous save
        try:
            self.checkpoints.save(step, items, self._meta)
        except NotSaved as error:
            self._handle(error, required)

    def finish(self, *, required: bool = False) -> None:
        """Wait until the last save is written.

        Args:
          required: see `save`.

        Raises:
          NotSaved: it failed, and the run must end.
        """
        try:
            self.checkpoints.wait()
        except NotSaved as error:
            self._handle(error, required)

    def _handle(self, error: NotSaved, required: bool) -> None:
        if self._stops or required:
            raise error
        if jax.process_index() == 0:
            logging.warning(f"{error.what}. Training continues (config.checkpoint.on_failure).")
