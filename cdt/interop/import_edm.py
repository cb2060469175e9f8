"""Takes over the weights of EDM's U-Nets: ADM, and DDPM++.

    python -m cdt.interop.import_edm --weights=FILE --config=CONFIG --workdir=DIR

FILE holds the state dict of an `EDMPrecond` of NVlabs/edm, in `.pt` or `.safetensors`; PyTorch is not
needed to read it. What NVlabs publishes are pickled programs, which run when they are opened, so
they are refused. In a clone of their repository, whose files such a pickle needs,

    python -c 'import pickle, torch; torch.save(pickle.load(open("X.pkl", "rb"))["ema"].state_dict(), "X.pt")'

makes X.pt of X.pkl. With X one of `edm-cifar10-32x32-uncond-vp` CONFIG is configs/cifar10.py (of
`-cond-vp` with --config.model.num_classes=10), of `edm-ffhq-64x64-uncond-vp` configs/ffhq64.py and of
`edm-imagenet-64x64-cond-adm` configs/imagenet64.py. Those with `-ve`
are NCSN++, which cdt does not have; those called `baseline` have these names and sizes but another
preconditioning, which nothing in the file tells: do not use them.

DIR gets a checkpoint of step 0, in which the parameters and every average are those weights. The
same config samples from it with `--mode=sample`, and a run in another workdir starts from it with
`--config.init_from=DIR`. Exit codes are those of `cdt.main`.
"""  # noqa: E501

import sys
from typing import Any

import jax
import numpy as np
from etils import epath
from ml_collections import ConfigDict

from cdt import from_config
from cdt.errors import UserError
from cdt.interop.edm_names import to_params
from cdt.interop.imported import command_line, import_weights
from cdt.models.unet import ADM, DDPMPP

PyTree = Any

_STYLES = {"adm": ADM, "ddpmpp": DDPMPP}


def import_edm(config: ConfigDict, workdir: epath.PathLike, weights: epath.PathLike) -> int:
    """Write the checkpoint; return the exit code. For arguments and errors see above and
    `import_weights`."""

    def find_file(path: epath.Path) -> epath.Path:
        if config.model.name not in _STYLES or config.process.name != "edm":
            raise UserError(
                f"config.model.name is '{config.model.name}' and config.process.name "
                f"'{config.process.name}'; EDM's weights need 'adm' or 'ddpmpp', and 'edm'."
            )
        if path.suffix == ".pkl":
            raise UserError(
                f"{path} is a pickled program, which is not opened; in a clone of NVlabs/edm "
                f"make a state dict: torch.save(pickle.load(open('{path.name}', 'rb'))['ema']"
                f".state_dict(), '{path.stem}.pt')."
            )
        return path

    def params(state: dict[str, np.ndarray], model: from_config.Model) -> PyTree:
        shapes = dict(jax.eval_shape(model.init, jax.random.key(0)))
        shapes.pop("loss_uncertainty", None)
        return to_params(state, shapes, config.data.image_size, _STYLES[config.model.name])

    return import_weights(config, workdir, weights, find_file, params)


if __name__ == "__main__":
    sys.exit(command_line(import_edm, "File of weights."))
