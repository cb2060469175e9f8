"""cdt: training diffusion models with a curriculum over noise levels, in JAX.

The command is `python -m cdt.main`. From Python:

    load_run         opens the workdir of a run; returns a Run
    Run              a run's config, model and weights; draws samples
    default_config   returns the config with every key at its default
    read_history     reads the metrics that a run has logged
    register         adds your own network, density, sampler and other methods
    UserError        raised for wrong input; the message names the problem and the fix

`import cdt` imports none of JAX, TensorFlow and PyTorch; the first use of a name imports what it
needs.
"""

import importlib
from typing import TYPE_CHECKING

from cdt.version import __version__ as __version__

if TYPE_CHECKING:  # a type checker would accept any name because of __getattr__
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
