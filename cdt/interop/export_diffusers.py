"""Export a class-conditional DiT as a folder that diffusers' DiTPipeline loads.

Usage:
  python -m cdt.interop.export_diffusers --config=FILE[:VARIANT] --workdir=RUN
      --out=FOLDER [--vae=FOLDER] [--labels=FILE] [--license=NAME]
      [--config.KEY=VALUE ...]

Flags:
  --config=FILE         config of the run, which must be of DDPM
  --workdir=RUN         workdir of the run; nothing in it changes, and it may be
                        training
  --out=FOLDER          new or empty folder
  --vae=FOLDER          AutoencoderKL of the run's latents, which is copied
                        (config.json and diffusion_pytorch_model.safetensors);
                        without it, the user passes one to the pipeline
  --labels=FILE         JSON list of the names of the classes, from class 0 on
  --license=NAME        of the weights, for the model card: apache-2.0, ...
  --config.KEY=VALUE    change a config key

The weights are those of `python -m cdt.interop.export_safetensors --help`.
Neither PyTorch nor diffusers is needed here. The exit codes are those of
`python -m cdt.main --help`.
"""

from cdt import usage

if __name__ == "__main__":  # answered before the imports below, which load JAX
    usage.answer_and_exit(__doc__)

import json
import sys
from typing import Any

from etils import epath
from ml_collections import ConfigDict

from cdt import from_config
from cdt.errors import EXIT_FINISHED, UserError, user_errors
from cdt.files import atomic, safetensors
from cdt.interop.autoencoder_files import autoencoder_of
from cdt.interop.diffusers_files import (
    PIPELINE_CLASSES,
    model_index,
    scheduler_config,
    transformer_config,
)
from cdt.interop.dit_names import DIFFUSERS, from_params, with_unused_classes
from cdt.interop.export_safetensors import (
    new_folder,
    read_weights,
    write_card,
    written_whole,
)

_WEIGHTS = "diffusion_pytorch_model.safetensors"
_FREQUENCIES = """
# The weights were trained with DiT's timestep frequencies, 10000^(-i / 128). The default of
# diffusers is 10000^(-i / 127), so set it:
for block in {transformer}.transformer_blocks:
    block.norm1.emb.time_proj.downscale_freq_shift = 0
""".strip()
_PIPELINE = """
```python
from diffusers import AutoencoderKL, DiTPipeline

pipe = DiTPipeline.from_pretrained({load})
{frequencies}
images = pipe(class_labels=[0], guidance_scale={guidance}, num_inference_steps={steps}).images
```

The pipeline samples with DDIM.{classes}
"""
_TRANSFORMER = """
The network works on pixels in [-1, 1]. DiTPipeline supports latents only, so load the parts:

```python
from diffusers import DDIMScheduler, DiTTransformer2DModel

transformer = DiTTransformer2DModel.from_pretrained("{name}", subfolder="transformer")
{frequencies}
scheduler = DDIMScheduler.from_pretrained("{name}", subfolder="scheduler")
```
{classes}
"""


def export_diffusers(
    config: ConfigDict,
    workdir: str,
    out: str,
    vae: str = "",
    labels: str = "",
    license_name: str = "",
) -> int:
    """Write the folder `out` and return the exit code; see `export_safetensors`.

    Args:
      config: of the run, a class-conditional DiT of DDPM.
      workdir: of the run; nothing in it changes.
      out: new or empty folder.
      vae: folder of the AutoencoderKL to copy; empty: none.
      labels: JSON file of the names of the classes; empty: their numbers.
      license_name: of the weights, for the model card.
    """
    with user_errors():
        folder = new_folder(out)
        network = from_config.dit(config)
        _check(config)
        names = _labels(labels, config.model.num_classes)
        vae_config = _vae_config(config, epath.Path(vae).expanduser()) if vae else None
        weights = read_weights(config, epath.Path(workdir), license_name)
    side, channels = config.data.image_size, config.data.channels
    label_embed = weights.params["label_embed"]
    table = with_unused_classes(label_embed["table"], PIPELINE_CLASSES)
    params = weights.params | {"label_embed": {"table": table}}
    params.pop("loss_uncertainty", None)  # of the loss and not of the network
    state = from_params(params, DIFFUSERS, network.patch_size, side // network.patch_size)

    c = config.process
    scheduler = scheduler_config(c.schedule, c.num_timesteps, c.prediction, config.sample.clip)
    usage = _usage(config, folder.name, config.model.num_classes, vae_config is not None)
    with written_whole(folder) as partial:
        transformer = partial / "transformer"
        _write_json(transformer / "config.json", transformer_config(network, channels, side))
        safetensors.write_tensors(transformer / _WEIGHTS, state, {"format": "pt"})
        _write_json(partial / "scheduler" / "scheduler_config.json", scheduler)
        if vae_config is not None:
            _write_json(partial / "vae" / "config.json", vae_config)
            (epath.Path(vae).expanduser() / _WEIGHTS).copy(partial / "vae" / _WEIGHTS)
        _write_json(partial / "model_index.json", model_index(names, vae_config is not None))
        write_card(partial, folder.name, usage, weights, library="diffusers")
    print(f"{folder}: exported the weights of step {weights.step} for diffusers")
    return EXIT_FINISHED


def _check(config: ConfigDict) -> None:
    """Raise UserError unless DiTPipeline can express the run."""
    if config.process.name != "ddpm":
        raise UserError(
            f"config.process.name is '{config.process.name}', but DiTPipeline supports only "
            "'ddpm'; use export_safetensors."
        )
    if config.model.num_classes > PIPELINE_CLASSES:
        raise UserError(
            f"config.model.num_classes is {config.model.num_classes}, but DiTPipeline supports at "
            f"most {PIPELINE_CLASSES} classes; use export_safetensors."
        )
    if config.data.name == "latents" and config.latents.scaling != "constant":
        raise UserError(
            f"config.latents.scaling is '{config.latents.scaling}', but DiTPipeline supports only "
            "'constant'; use export_safetensors."
        )


def _labels(file: str, num_classes: int) -> list[str]:
    """Return the class names in a JSON file, or the class numbers without a file."""
    if not file:
        return [str(i) for i in range(num_classes)]
    try:
        names = json.loads(epath.Path(file).expanduser().read_text())
    except (OSError, ValueError) as error:
        raise UserError(
            f"--labels is '{file}', which cannot be read as JSON ({error}); give a JSON list of "
            f"{num_classes} names."
        ) from error
    sound = isinstance(names, list) and all(isinstance(name, str) for name in names)
    if not sound or len(names) != num_classes:
        raise UserError(
            f"--labels is '{file}', which is not a list of {num_classes} names; give one name for "
            "each class."
        )
    return names


def _vae_config(config: ConfigDict, folder: epath.Path) -> dict[str, Any]:
    """Return config.json of the autoencoder, with the scale of the run's latents."""
    if config.data.name != "latents":
        raise UserError("--vae is given, but the run does not use latents; omit --vae.")
    try:
        content = json.loads((folder / "config.json").read_text())
        if not isinstance(content, dict):
            raise ValueError("config.json is not a JSON object")
        if not (folder / _WEIGHTS).exists():
            raise ValueError(f"there is no {_WEIGHTS}")
        channels = autoencoder_of(content).latent_channels
        if channels != config.data.channels:
            raise ValueError(f"its latents have {channels} channels, not {config.data.channels}")
    except (OSError, ValueError) as error:
        raise UserError(
            f"--vae is '{folder}', which is not the autoencoder of the run: {error}; give the "
            "folder of a diffusers AutoencoderKL."
        ) from error
    return content | {"scaling_factor": config.latents.scale}


def _usage(config: ConfigDict, name: str, num_classes: int, has_vae: bool) -> str:
    classes = ""
    if num_classes < PIPELINE_CLASSES:
        classes = (
            f" Its classes are 0 to {num_classes - 1}. The labels {num_classes} to "
            f"{PIPELINE_CLASSES} all mean no class."
        )
    if config.data.name != "latents":
        frequencies = _FREQUENCIES.format(transformer="transformer")
        return _TRANSFORMER.format(name=name, frequencies=frequencies, classes=classes.strip())
    load = f'"{name}"'
    if not has_vae:
        load += ', vae=AutoencoderKL.from_pretrained("AUTOENCODER OF THE LATENTS")'
    return _PIPELINE.format(
        load=load,
        frequencies=_FREQUENCIES.format(transformer="pipe.transformer"),
        guidance=config.sample.guidance,
        steps=config.sample.steps,
        classes=classes,
    )


def _write_json(path: epath.Path, content: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    atomic.write(path, json.dumps(content, indent=2, sort_keys=True))


if __name__ == "__main__":
    from cdt.main import run_command_line

    own = ("out", "vae", "labels", "license")
    sys.exit(run_command_line(sys.argv, export_diffusers, own, command_writes=False))
