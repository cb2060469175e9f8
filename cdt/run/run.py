"""`cdt.load_run`: a saved run for notebooks and programs."""

from typing import Any

import numpy as np
from etils import epath

from cdt.config import unknown_key
from cdt.errors import UserError, user_errors
from cdt.monitoring.history import Convergence, convergence
from cdt.monitoring.writers import read_history
from cdt.register import unregistered
from cdt.run.images import class_names, make_generator
from cdt.run.open_run import open_run
from cdt.run.weights import load_params
from cdt.workdir.record import recorded_config

PyTree = Any


class Run:
    """A run's config, model and weights, as `load_run` returns it.

    Attributes:
      path: the workdir.
      config: ConfigDict of the run, with a mesh of the available devices.
      model: the process, its prediction and the network: `model.apply(params, x, time, condition,
        None)`.
      step: steps done by the loaded checkpoint, the newest undamaged one.
      params: f32 tree, the EMA that was asked for.
      class_names: by label; a class without a name has its number. Empty for unconditional models.
    """

    def __init__(self, path: epath.PathLike, ema: str = ""):
        self.path = epath.Path(path).expanduser()
        self.config = recorded_config(self.path)
        if key := unregistered(self.config):
            section, _, name = key.partition(".")
            raise UserError(
                f"The run in {self.path} has config.{key} = '{self.config[section][name]}', which "
                "is not registered; import the file that registers it, then open the run."
            )
        self.config.mesh.data, self.config.mesh.fsdp = -1, 1
        self.config.sample.ema = ema or self.config.sample.ema
        self._run = open_run(self.config, self.path)
        self.model = self._run.model
        self.class_names = class_names(self._run)
        self.step, self.params = load_params(self._run)

    def sample(self, n: int = 16, **settings: object) -> np.ndarray:
        """Draw images.

        Args:
          n: how many.
          **settings: keys of `config.sample`, such as guidance=2.0, classes=(3,), steps=25, seed=1,
            prompts=("red heart",); the run's config has the defaults. The same seed draws the same
            noise for any other settings.

        Returns:
          uint8[n, H, W, C], with classes or prompts in turn. Processes other than 0 get
          uint8[0, 0, 0, 0].

        Raises:
          UserError: a setting does not exist or does not fit the run.
        """
        config = self.config.copy_and_resolve_references()
        config.sample.num = n
        for key, value in settings.items():
            if key not in config.sample:
                raise unknown_key(f"sample.{key}")
            config.sample[key] = value
        with user_errors():
            images = make_generator(self._run._replace(config=config)).images(self.params, n)
        return np.zeros((0, 0, 0, 0), np.uint8) if images is None else images

    def history(self) -> list[dict[str, float]]:
        """Return the scalars, [{"step": ..., name: number, ...}, ...]; see `read_history`."""
        return read_history(self.path)

    def convergence(self) -> Convergence:
        """Return the validation loss of each noise cluster over training, and the stages.

        Raises:
          UserError: there is no validation loss yet.
        """
        with user_errors():
            return convergence(self.history())


def load_run(path: epath.PathLike, ema: str = "") -> Run:
    """Load the newest checkpoint of a run onto the available devices; change no file.

    The optimizer state is not read.

    Args:
      path: workdir of the run, local or gs://.
      ema: weights to load: the name of an EMA such as "0.9999" or "posthoc0.1", or "raw" for the
        raw weights. Default: `sample.ema` of the run's config.

    Raises:
      UserError: there is no run, no undamaged checkpoint, or no such EMA.
    """
    return Run(path, ema)
