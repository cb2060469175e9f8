"""Images made by a run's network, batch after batch over all devices."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.experimental import multihost_utils
from ml_collections import ConfigDict

from cdt import from_config
from cdt.devices import sharding
from cdt.diffusion.denoiser import Condition
from cdt.run.open_run import OpenRun

PyTree = Any


class Generator(NamedTuple):
    """Makes images 0, 1, ... of a config; image i is the same in every batch and on any devices."""

    sample: Callable[[PyTree, jax.Array, Condition], jax.Array]  # from `from_config.sampler`
    condition: Callable[[np.ndarray], dict[str, np.ndarray]]  # indices -> what they are to show
    mesh: jax.sharding.Mesh
    batch_size: int  # images at a time, rounded up to a multiple of the devices

    def images(self, params: PyTree, n: int) -> np.ndarray | None:
        """Make images 0..n-1; all processes call it together.

        Returns:
          uint8[n, H, W, C] on the host of process 0, None on the others.
        """
        size = -(-min(self.batch_size, n) // self.mesh.size) * self.mesh.size
        images = []
        for start in range(0, n, size):
            # The last batch is filled up with images that are dropped: one shape, one compilation.
            indices = np.arange(start, start + size, dtype=np.int32)
            told = sharding.global_batch(
                self.mesh, self.condition(np.minimum(indices, n - 1)), size
            )
            placed = sharding.global_batch(self.mesh, {"indices": indices}, size)["indices"]
            made = self.sample(params, placed, told)
            batch = multihost_utils.process_allgather(made, tiled=True)
            if jax.process_index() == 0:
                images.append(batch)
        return np.concatenate(images)[:n] if images else None


def make_generator(run: OpenRun) -> Generator:
    """Build the generator that `config.sample` describes.

    Raises:
      UserError: the sampler or what the samples are to show does not fit the run.
    """
    return Generator(
        from_config.sampler(run.config, run.model),
        from_config.sample_condition(run.config, run.model),
        run.mesh,
        run.config.sample.batch_size,
    )


def describe_samples(config: ConfigDict, step: int, n: int) -> dict[str, object]:
    """What must stand beside every picture and figure made from samples."""
    channels = config.sample.guidance_channels
    return {
        "step": step,
        "sampler": config.sample.sampler,
        "sampler_steps": config.sample.steps,
        "evaluations": from_config.evaluations(config),
        "guidance": config.sample.guidance,
        **({"guidance_channels": channels} if channels else {}),
        "ema": from_config.ema_name(config),
        "n": n,
        "seed": config.sample.seed,
    }
