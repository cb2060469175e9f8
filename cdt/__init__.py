"""cdt: diffusion models trained with a denoising-task-difficulty curriculum, in JAX.

From Python, beside the program `python -m cdt.main`:

    load_run         a run's config, network and parameters, to sample and to look at
    default_config   the config with every key, to start from
    read_history     what a run has logged
    register         adds a network, a density, a sampler ... of your own
    UserError        what all of these raise, a sentence for a person

Importing the package imports none of JAX, TensorFlow and PyTorch; using a name does.
"""

import importlib
from typing import TYPE_CHECKING

from cdt.version import __version__ as __version__

if TYPE_CHECKING:  # with a __getattr__ every name would be there
    from cdt import register as register
    from cdt.config import default_config
    from cdt.errors import UserError
    from cdt.monitoring.writers import read_history
    from cdt.run import Run, load_run

_HOMES = {
    "Run": "cdt.run",
    "UserError": "cdt.errors",
    "default_config": "cdt.config",
    "load_run": "cdt.run",
    "read_history": "cdt.monitoring.writers",
}

__all__ = ["Run", "UserError", "default_config", "load_run", "read_history", "register"]

if not TYPE_CHECKING:

    def __getattr__(name):
        if name == "register":
            return importlib.import_module("cdt.register")
        if name not in _HOMES:
            raise AttributeError(f"module 'cdt' has no attribute '{name}'")
        return getattr(importlib.import_module(_HOMES[name]), name)
