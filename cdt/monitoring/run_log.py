"""The log of a training run: metrics, progress lines, grids of samples."""

import logging
import time
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from etils import epath

from cdt.monitoring import plots
from cdt.monitoring.goodput import Goodput
from cdt.monitoring.progress import Progress
from cdt.monitoring.writers import Writer


class RunLog:
    """The log of one training run, from its start or resumption to its end.

    All values are on the host; nothing here uses a device.

    Args:
      workdir: folder of the run, local or gs://.
      tensorboard: whether events are written for TensorBoard as well.
      start: steps done before, in [0, total_steps).
      total_steps: steps of the whole run.
      num_stages: stages of the curriculum; 1 without a curriculum.
      batch_size: examples per step, over all devices.
      goodput: time of the run by activity, logged with the metrics.

    Attributes:
      window_start: steps done at the start of the window of the next log line.

    Raises:
      UserError: `workdir` cannot be written to.
    """

    def __init__(
        self,
        workdir: epath.Path,
        tensorboard: bool,
        start: int,
        total_steps: int,
        num_stages: int,
        batch_size: int,
        goodput: Goodput,
    ):
        self._workdir = workdir
        self._writer = Writer(workdir, tensorboard=tensorboard)
        self._progress = Progress(total_steps, start, active=jax.process_index() == 0)
        self._num_stages = num_stages
        self._batch_size = batch_size
        self._goodput = goodput
        self._writer.start(start)
        self.begin_window(start, 0.0)

    def begin_window(self, step: int, waited: float) -> None:
        """Begin the window in which the throughput of the next line is measured.

        Args:
          step: steps done.
          waited: seconds the run has waited for data so far.
        """
        self.window_start, self._waited = step, waited
        self._window_began = time.perf_counter()

    def progress(self, step: int) -> None:
        """Show that `step` steps are done."""
        self._progress.update(step)

    def line(self, step: int, values: dict[str, Any], waited: float) -> None:
        """Log the metrics of a step, the throughput of the window, and the time by activity.

        Args:
          step: steps done.
          values: metrics: scalars, "cluster_loss" f32[N] and, with a curriculum, "stage_lengths"
            int32[N].
          waited: seconds the run has waited for data so far.
        """
        seconds = time.perf_counter() - self._window_began
        rate = self._batch_size * (step - self.window_start) / seconds
        values = values | {
            "images_per_second": rate,
            "data_wait_fraction": (waited - self._waited) / seconds,
        }
        self._writer.scalars(step, _flat(values) | self._goodput.fractions())
        self._progress.update(
            step,
            stage=int(values["stage"]) if "stage" in values else None,
            num_stages=self._num_stages,
            loss=float(values["loss"]),
            images_per_second=rate,
        )

    def validation(self, step: int, loss: np.ndarray, initial: np.ndarray) -> None:
        """Log the validation loss of each cluster and its convergence, 1 - loss / initial.

        Args:
          step: steps done.
          loss: f32[M], the validation loss of each cluster.
          initial: f32[M], the validation loss before the first step.
        """
        self._writer.scalars(
            step,
            {"validation_loss": float(loss.mean())}
            | _per_cluster("validation_loss", loss)
            | _per_cluster("convergence", 1.0 - loss / initial),
        )

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Log numbers, see `Writer.scalars`."""
        self._writer.scalars(step, values)

    def samples(self, step: int, grid: np.ndarray) -> None:
        """Write a grid uint8[H, W, C] to `samples/step_<step>.png` and for TensorBoard.

        Warn if it cannot be written.
        """
        target = self._workdir / "samples" / f"step_{step:08d}.png"
        try:
            target.parent.mkdir(exist_ok=True)  # not the workdir: its mount may be lost
            plots.save_png(target, grid)
        except OSError as error:
            logging.warning(f"{target} cannot be written ({error}); training continues.")
        self._writer.images(step, {"samples": grid})

    def start_tensorboard(self) -> None:
        """Start to write for TensorBoard; call it once after the first step, see `Writer`."""
        self._writer.start_tensorboard()

    def close(self) -> None:
        """Write everything and end the progress line."""
        self._progress.close()
        self._writer.close()


def _per_cluster(name: str, values: np.ndarray) -> dict[str, float]:
    return {f"{name}/cluster_{i + 1:02d}": float(value) for i, value in enumerate(values)}


def _flat(values: dict[str, Any]) -> dict[str, float]:
    """Return scalars by name; a vector gets one name per cluster or stage."""
    scalars = dict(values)
    flat = _per_cluster("loss", scalars.pop("cluster_loss"))
    lengths = scalars.pop("stage_lengths", ())
    flat |= {f"stage_length/stage_{i + 1:02d}": float(n) for i, n in enumerate(lengths)}
    return flat | {name: float(value) for name, value in scalars.items()}
