"""Export the denoiser of any run as a program that runs without cdt.

Usage:
  python -m cdt.interop.export_stablehlo --config=FILE[:VARIANT] --workdir=RUN
      --out=FOLDER [--license=NAME] [--config.KEY=VALUE ...]

Flags:
  --config=FILE         config of the run
  --workdir=RUN         workdir of the run; nothing in it changes, and it may be
                        training
  --out=FOLDER          new or empty folder
  --license=NAME        of the weights, for the model card: apache-2.0, ...
  --config.KEY=VALUE    change a config key

FOLDER gets the files of `python -m cdt.interop.export_safetensors --help`, and
  denoiser.stablehlo    StableHLO of jax.export, for CPU, CUDA and TPU and any
                        batch size: (params, x, level, condition) -> {x0, eps}

The model card shows how to call it. The exit codes are those of
`python -m cdt.main --help`.
"""

from cdt import usage

if __name__ == "__main__":  # answered before the imports below, which load JAX
    usage.answer_and_exit(__doc__)

import functools
import sys
from typing import Any

import jax
import jax.numpy as jnp
from etils import epath
from jax import export
from ml_collections import ConfigDict

from cdt import from_config
from cdt.diffusion.denoiser import Condition, make_denoiser
from cdt.errors import EXIT_FINISHED, user_errors
from cdt.files import atomic
from cdt.interop.export_safetensors import (
    new_folder,
    read_weights,
    write_card,
    write_weights,
    written_whole,
)

PyTree = Any

_PLATFORMS = ("cpu", "cuda", "tpu")
_USAGE = """
The parameters, and the denoiser as a program that needs only JAX:

```python
import jax
import jax.numpy as jnp
from flax.traverse_util import unflatten_dict
from safetensors.numpy import load_file

params = unflatten_dict(load_file("model.safetensors"), sep="/")
denoiser = jax.export.deserialize(open("denoiser.stablehlo", "rb").read())
out = denoiser.call(params, x, level, condition)  # out["x0"], out["eps"]
```

- x: {x}, x = alpha x0 + sigma eps
- level: float32 [batch], {level}
- condition: {condition}

The batch may have any size. For classifier-free guidance, call the denoiser also with the null
condition and combine the two results.
"""
_LEVELS = {
    "ddpm": "the timestep, 0 to T - 1",
    "edm": "sigma",
    "flow": "the time, 0 (clean) to 1 (noise)",
}


def export_stablehlo(config: ConfigDict, workdir: str, out: str, license_name: str = "") -> int:
    """Write the folder `out` and return the exit code; see `export_safetensors`."""
    with user_errors():
        folder = new_folder(out)
        weights = read_weights(config, epath.Path(workdir), license_name)
        model = from_config.model(config)
    program = denoiser(model, weights.params)
    with written_whole(folder) as partial:
        write_weights(partial, config, weights)
        atomic.write(partial / "denoiser.stablehlo", bytes(program.serialize()))
        write_card(partial, folder.name, _usage(model), weights)
    print(f"{folder}: exported the denoiser and the weights of step {weights.step}")
    return EXIT_FINISHED


def denoiser(model: from_config.Model, params: PyTree) -> export.Exported:
    """Export the denoiser of a model for any batch size b.

    Args:
      model: of the config.
      params: tree of arrays; only shapes and dtypes are used.

    Returns:
      The program (params, x f32[b, H, W, C], level f32[b], condition {name: [b, ...]}) ->
      {"x0": f32[b, H, W, C], "eps": the same}.
    """

    def denoise(
        params: PyTree, x: jax.Array, level: jax.Array, condition: Condition
    ) -> dict[str, jax.Array]:
        network = from_config.network_at(model, params)
        found = make_denoiser(
            lambda x, level: network(x, level, condition),
            model.process,
            model.prediction,
            model.learn_variance,
            clip=False,
        )(x, level)
        return {"x0": found.x0, "eps": found.eps}

    (b,) = export.symbolic_shape("b")
    shaped = functools.partial(jax.ShapeDtypeStruct, dtype=jnp.float32)
    condition = {
        name: jax.ShapeDtypeStruct((b, *jnp.shape(value)), jnp.asarray(value).dtype)
        for name, value in model.null.items()
    }
    abstract = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), params)
    return export.export(jax.jit(denoise), platforms=_PLATFORMS)(
        abstract, shaped((b, *model.image_shape)), shaped((b,)), condition
    )


def _usage(model: from_config.Model) -> str:
    shape = ", ".join(map(str, model.image_shape))
    parts = []
    for name, value in model.null.items():
        sizes = ", ".join(map(str, ("batch", *jnp.shape(value))))
        null = f", {model.num_classes} for no class" if name == "label" else ""
        parts.append(f'"{name}": {jnp.asarray(value).dtype} [{sizes}]{null}')
    return _USAGE.format(
        x=f"float32 [batch, {shape}]",
        level=_LEVELS[model.process.name],
        condition=f"{{{'; '.join(parts)}}}",
    )


if __name__ == "__main__":
    from cdt.main import run_command_line

    own = ("out", "license")
    sys.exit(run_command_line(sys.argv, export_stablehlo, own, command_writes=False))
