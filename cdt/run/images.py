"""Image generation with a run's model, in batches over all devices."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.experimental import multihost_utils
from ml_collections import ConfigDict

from cdt import from_config
from cdt.devices import sharding
from cdt.diffusion.denoiser import Condition
from cdt.monitoring import console, plots
from cdt.run.open_run import OpenRun
from cdt.workdir.record import recorded_class_names

PyTree = Any


class Generator(NamedTuple):
    """Makes images 0, 1, ... of a config; image i is the same in every batch and on any devices.

    Attributes:
      sample: from `from_config.sampler`.
      condition: from `from_config.sample_condition`.
      captions: from `from_config.sample_captions`.
      class_names: by label, see `class_names`.
      period: number of images after which the conditioning repeats; 0 if it does not repeat.
      mesh: of the devices.
      batch_size: images at a time, rounded up to a multiple of the devices.
    """

    sample: Callable[[PyTree, jax.Array, Condition], jax.Array]
    condition: Callable[[np.ndarray], dict[str, np.ndarray]]
    captions: Callable[[np.ndarray], list[str]] | None
    class_names: tuple[str, ...]
    period: int
    mesh: jax.sharding.Mesh
    batch_size: int

    def images(self, params: PyTree, n: int) -> np.ndarray | None:
        """Generate images 0 .. n - 1; all processes call it together.

        Returns:
          uint8[n, H, W, C] on the host of process 0, None on the others.
        """
        size = -(-min(self.batch_size, n) // self.mesh.size) * self.mesh.size
        images = []
        with console.phase(f"generating {n:,} images", n) as generating:
            for start in range(0, n, size):
                # The last batch is padded with images that are dropped: one shape, one compilation.
                indices = np.arange(start, start + size, dtype=np.int32)
                condition = sharding.global_batch(
                    self.mesh, self.condition(np.minimum(indices, n - 1)), size
                )
                placed = sharding.global_batch(self.mesh, {"indices": indices}, size)["indices"]
                made = self.sample(params, placed, condition)
                batch = multihost_utils.process_allgather(made, tiled=True)
                if jax.process_index() == 0:
                    images.append(batch)
                generating.count(min(size, n - start))
        return np.concatenate(images)[:n] if images else None

    def grid(self, images: np.ndarray) -> np.ndarray:
        """Lay out images 0..n-1 with their captions or class names, if the model has either.

        Class names are heads of the columns where each column is one class. Otherwise each stands
        below its image.

        Args:
          images: uint8[n, H, W, C], n >= 1.

        Returns:
          uint8[height, width, C or 3].
        """
        indices = np.arange(len(images))
        # As many columns as keep one class or prompt per column, ten at most.
        columns = min(10 // self.period * self.period, len(images)) if self.period else 0
        if self.captions is not None:
            return plots.captioned_grid(images, self.captions(indices), columns or None)
        labels = self.condition(indices).get("label")
        if labels is None:
            return plots.image_grid(images)
        names = [self.class_names[label] for label in labels]
        if columns:
            return plots.headed_grid(images, names[:columns])
        return plots.captioned_grid(images, names)


def make_generator(run: OpenRun) -> Generator:
    """Build the generator that `config.sample` describes.

    Raises:
      UserError: the sampler, the classes or the prompts do not fit the run.
    """
    config = run.config
    captions = from_config.sample_captions(config)
    if captions is None:
        period = len(config.sample.classes) or config.model.num_classes
    else:
        period = len(config.sample.prompts)
    return Generator(
        from_config.sampler(config, run.model),
        from_config.sample_condition(config, run.model),
        captions,
        class_names(run),
        period,
        run.mesh,
        config.sample.batch_size,
    )


def class_names(run: OpenRun) -> tuple[str, ...]:
    """Return the names of the model's classes by label; a class without a name has its number."""
    known = tuple(run.config.data.class_names) or recorded_class_names(run.path)
    return tuple(
        known[label] if label < len(known) else str(label)
        for label in range(run.config.model.num_classes)
    )


def describe_samples(config: ConfigDict, step: int, n: int) -> dict[str, object]:
    """Return the settings that made `n` samples, to be reported with every grid and metric."""
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
