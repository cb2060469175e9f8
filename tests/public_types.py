"""Types that a checker sees after `import cdt`, whose names are loaded lazily.

mypy checks this file in `make lint`; it is never run.
"""

from typing import Any, assert_type

import numpy as np

import cdt
from cdt.monitoring.history import Convergence


def types(path: str) -> None:
    run = cdt.load_run(path)
    assert_type(run, cdt.Run)
    assert_type(run.sample(3, classes=(1,), guidance=2.0), np.ndarray)
    assert_type(run.step, int)
    assert_type(run.model.image_shape, tuple[int, int, int])
    assert_type(run.convergence(), Convergence)
    assert_type(run.history(), list[dict[str, float]])
    assert_type(cdt.read_history(path), list[dict[str, Any]])
    cdt.register.network("net", lambda spec, width: spec.out_channels, width=3)
    assert_type(cdt.UserError("why"), cdt.UserError)
    # mypy must report an error here: the name does not exist.
    cdt.load_runs  # type: ignore[attr-defined] # noqa: B018
