"""A trace of a few steps, for TensorBoard's profile plugin and Perfetto."""

import logging
from collections.abc import Callable

import jax
from etils import epath


class Profile:
    """Trace the steps start .. stop - 1 of a run with `jax.profiler`, once.

    Every process traces its own host and devices, in `folder/plugins/profile/<time>`. If a trace
    cannot be written, a warning is logged and training continues.

    Args:
      folder: folder of the trace, created if missing.
      steps: (start, stop), 0 <= start < stop, counted as steps done before; None: no trace.
      finish_steps: waits for the steps in flight, so that the trace has exactly these steps.
    """

    def __init__(
        self,
        folder: epath.Path,
        steps: tuple[int, int] | None,
        finish_steps: Callable[[], None],
    ):
        self._folder = folder
        self._steps = steps
        self._finish_steps = finish_steps
        self._tracing = False

    def before(self, step: int, until: int) -> None:
        """Start the trace if it is due; call it before the steps step .. until - 1 start."""
        if self._steps is None or self._tracing or not until > self._steps[0]:
            return
        if step >= self._steps[1]:
            self._steps = None  # the run was resumed after these steps
            return
        self._finish_steps()
        try:
            jax.profiler.start_trace(self._folder)
            self._tracing = True
        except Exception as error:  # the profiler and its file systems raise anything
            self._warn(error)

    def after(self, done: int) -> None:
        """Write the trace if its last step has been started; call it after each dispatch.

        Args:
          done: steps started so far.
        """
        if self._tracing and self._steps is not None and done >= self._steps[1]:
            self._finish_steps()
            self.close()

    def close(self) -> None:
        """Write the trace so far, if there is one."""
        if not self._tracing:
            return
        self._tracing, self._steps = False, None
        try:
            jax.profiler.stop_trace()
            print(f"the trace of the profiled steps is in {self._folder}")
        except Exception as error:
            self._warn(error)

    def _warn(self, error: Exception) -> None:
        self._steps = None
        logging.warning(f"No trace in {self._folder} ({error}); training continues.")
