"""Import the weights of EDM's U-Nets, ADM and DDPM++; PyTorch is not needed.

Usage:
  python -m cdt.interop.import_edm --weights=FILE --config=FILE[:VARIANT]
      --workdir=DIR [--config.KEY=VALUE ...]

Flags:
  --weights=FILE        state dict of an `EDMPrecond` of NVlabs/edm, .pt or
                        .safetensors
  --config=FILE         config of the same network (see the table)
  --workdir=DIR         new workdir; it gets a checkpoint of step 0
  --config.KEY=VALUE    change a config key

  published weights X            config
  edm-cifar10-32x32-uncond-vp    configs/cifar10.py
  edm-cifar10-32x32-cond-vp      the same, --config.model.num_classes=10
  edm-ffhq-64x64-uncond-vp       configs/ffhq64.py
  edm-imagenet-64x64-cond-adm    configs/imagenet64.py

NVlabs publishes pickled programs (.pkl), which run code when they are opened.
They are refused. In a clone of NVlabs/edm, this command makes X.pt of X.pkl:

  python -c 'import pickle, torch; torch.save(
      pickle.load(open("X.pkl", "rb"))["ema"].state_dict(), "X.pt")'

Weights with `-ve` are of NCSN++, which cdt does not have. Do not use those
named `baseline`: they have the same names and sizes but another
preconditioning, which cannot be detected from the file.

In the checkpoint the weights and all EMAs are the imported weights.
`--mode=sample` with the same config and workdir samples from it. A run in
another workdir starts from it with --config.init_from=DIR. The exit codes are
those of `python -m cdt.main --help`.
"""

from cdt import usage

if __name__ == "__main__":  # answered before the imports below, which load JAX
    usage.answer_and_exit(__doc__)

import sys
from typing import Any

import jax
import numpy as np
from etils import epath
from ml_collections import ConfigDict

from cdt import from_config
from cdt.errors import UserError
from cdt.interop.edm_names import to_params
from cdt.interop.imported import import_weights
from cdt.models.unet import ADM, DDPMPP

PyTree = Any

_STYLES = {"adm": ADM, "ddpmpp": DDPMPP}


def import_edm(config: ConfigDict, workdir: epath.PathLike, weights: epath.PathLike) -> int:
    """Write the checkpoint of step 0 and return the exit code; see `import_weights`."""

    def find_file(path: epath.Path) -> epath.Path:
        if config.model.name not in _STYLES or config.process.name != "edm":
            raise UserError(
                f"config.model.name is '{config.model.name}' and config.process.name is "
                f"'{config.process.name}'; EDM's weights need the model 'adm' or 'ddpmpp', and the "
                "process 'edm'."
            )
        if path.suffix == ".pkl":
            raise UserError(
                f"{path} is a pickle, which can run any code, so it is not opened; convert it in a "
                f"clone of NVlabs/edm: torch.save(pickle.load(open('{path.name}', 'rb'))['ema']"
                f".state_dict(), '{path.stem}.pt')."
            )
        return path

    def params(state: dict[str, np.ndarray], model: from_config.Model) -> PyTree:
        shapes = dict(jax.eval_shape(model.init, jax.random.key(0)))
        shapes.pop("loss_uncertainty", None)
        return to_params(state, shapes, config.data.image_size, _STYLES[config.model.name])

    return import_weights(config, workdir, weights, find_file, params)


if __name__ == "__main__":
    from cdt.main import run_command_line

    sys.exit(run_command_line(sys.argv, import_edm, ("weights",)))
