"""Export the weights of any run as one safetensors file.

Usage:
  python -m cdt.interop.export_safetensors --config=FILE[:VARIANT]
      --workdir=RUN --out=FOLDER [--license=NAME] [--config.KEY=VALUE ...]

Flags:
  --config=FILE         config of the run
  --workdir=RUN         workdir of the run; nothing in it changes, and it may be
                        training
  --out=FOLDER          new or empty folder
  --license=NAME        of the weights, for the model card: apache-2.0, ...
  --config.KEY=VALUE    change a config key

FOLDER gets all of these files, or is not created:
  model.safetensors     float32 weights by path: "blocks/mlp/in/kernel", ...
  config.json           every key of the config
  README.md             model card, with the run's evaluations of these weights
  samples.png           sample grid of the run, if it has one

The weights are those of `--mode=sample`: in the newest checkpoint the EMA that
sample.ema names, by default the first. The exit codes are those of
`python -m cdt.main --help`.
"""

from cdt import usage

if __name__ == "__main__":  # answered before the imports below, which load JAX
    usage.answer_and_exit(__doc__)

import json
import sys
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import jax
import numpy as np
from etils import epath
from ml_collections import ConfigDict

from cdt import __version__, from_config
from cdt.config import flatten
from cdt.errors import EXIT_FINISHED, UserError, user_errors
from cdt.files import atomic, safetensors
from cdt.interop.card import model_card
from cdt.modes.evaluate import table
from cdt.run.open_run import open_run
from cdt.run.weights import load_params
from cdt.workdir.identity import identity
from cdt.workdir.leaves import named_leaves

_USAGE = """
```python
from flax.traverse_util import unflatten_dict
from safetensors.numpy import load_file

params = unflatten_dict(load_file("model.safetensors"), sep="/")
```

These are the parameters of the network that `cdt.from_config.model` builds from the config.
"""


class Weights(NamedTuple):
    """The weights of a run and the content of their model card."""

    params: Any  # tree of f32 NumPy arrays
    step: int
    card: dict[str, Any]  # the arguments of `model_card` that are equal for all formats
    samples: bytes | None  # PNG


def read_weights(config: ConfigDict, workdir: epath.Path, license_name: str) -> Weights:
    """Return the weights that `--mode=sample` uses.

    Args:
      config: of the run.
      workdir: of the run.
      license_name: see `model_card`.

    Raises:
      UserError: there is no checkpoint, or it is of another config.
    """
    run = open_run(config, workdir)
    step, params = load_params(run)
    params = jax.tree.map(np.asarray, params)
    ema = from_config.ema_name(config)
    found = [json.loads(file.read_text()) for file in _evaluations(workdir, step)]
    family = config.process.name
    facts = {
        "Network": f"{config.model.name} {config.model.size}".strip(),
        "Parameters": f"{sum(leaf.size for leaf in jax.tree.leaves(params)):,}",
        "Family": f"{family}, predicts {config.process.prediction}" if family == "ddpm" else family,
        "Data": f"{config.data.name} {epath.Path(config.data.path).name}".strip(),
        "Input": "x".join(map(str, run.model.image_shape)) + (
            " (latents)" if config.data.name == "latents" else " (pixels in [-1, 1])"
        ),
        "Classes": str(run.model.num_classes or "none"),
        "Steps": f"{step:,} of {config.train.batch_size} examples",
        "EMA": "none (raw parameters)" if ema == "raw" else ema,
        "Exported by": f"cdt {__version__}",
    }  # fmt: skip
    card = {
        "facts": facts,
        "config": identity(config),
        "evaluations": [table(results) for results in found if results.get("ema") == ema],
        "license_name": license_name,
    }
    return Weights(params, step, card, _samples(workdir, step))


def write_card(
    folder: epath.Path, title: str, usage: str, weights: Weights, library: str = ""
) -> None:
    """Write README.md, and samples.png if the run has a sample grid of this step.

    Args:
      folder: to write to.
      title, usage, library: see `model_card`.
      weights: of `read_weights`.
    """
    name = "samples.png" if weights.samples else ""
    if weights.samples:
        atomic.write(folder / name, weights.samples)
    card = model_card(title, usage, **weights.card, samples=name, library=library)
    atomic.write(folder / "README.md", card)


def new_folder(out: str) -> epath.Path:
    """Return the folder `out`, for `written_whole`.

    Raises:
      UserError: `out` is empty, or the folder exists and is not empty.
    """
    if not out:
        raise UserError("--out is missing; give a new folder for the exported weights.")
    folder = epath.Path(out).expanduser()
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(f"--out is '{folder}', which already exists; give a new folder.")
    return folder


@contextmanager
def written_whole(folder: epath.Path) -> Iterator[epath.Path]:
    """Create a temporary folder for a `with` block, and rename it to `folder` at the end.

    If the block raises, the temporary folder is removed, so the same command can be run again.
    """
    partial = folder.parent / f".{folder.name}-{uuid.uuid4().hex}"
    partial.mkdir(parents=True)
    try:
        yield partial
        if folder.exists():
            folder.rmdir()  # an empty one
        partial.rename(folder)
    finally:
        partial.rmtree(missing_ok=True)


def export_safetensors(config: ConfigDict, workdir: str, out: str, license_name: str = "") -> int:
    """Write the folder `out` and return the exit code.

    Args:
      config: of the run.
      workdir: of the run; nothing in it changes.
      out: new or empty folder.
      license_name: of the weights, for the model card.

    Raises:
      UserError: there is no checkpoint of this config, or the folder is not empty.
    """
    with user_errors():
        folder = new_folder(out)
        weights = read_weights(config, epath.Path(workdir), license_name)
    with written_whole(folder) as partial:
        write_weights(partial, config, weights)
        write_card(partial, folder.name, _USAGE, weights)
    print(f"{folder}: exported the weights of step {weights.step}")
    return EXIT_FINISHED


def write_weights(folder: epath.Path, config: ConfigDict, weights: Weights) -> None:
    """Write model.safetensors and config.json."""
    path = folder / "model.safetensors"
    safetensors.write_tensors(path, named_leaves(weights.params), {"step": str(weights.step)})
    atomic.write(folder / "config.json", json.dumps(flatten(config), indent=1, sort_keys=True))


def _evaluations(workdir: epath.Path, step: int) -> list[epath.Path]:
    return sorted((workdir / "evaluations").glob(f"step_{step}_*.json"))


def _samples(workdir: epath.Path, step: int) -> bytes | None:
    for name in (f"step_{step}/grid.png", f"step_{step:08d}.png"):
        if (workdir / "samples" / name).exists():
            return (workdir / "samples" / name).read_bytes()
    return None


if __name__ == "__main__":
    from cdt.main import run_command_line

    own = ("out", "license")
    sys.exit(run_command_line(sys.argv, export_safetensors, own, command_writes=False))
