"""Conversion of results to JSON."""

import json
import math
from collections.abc import Mapping
from typing import Any

import numpy as np


def to_json(results: Mapping[str, Any]) -> str:
    """Return results as JSON text.

    Arrays become lists, named tuples become dicts, NaN and inf become null.
    """
    return json.dumps(_plain(results), indent=1)


def _plain(value: Any) -> Any:
    if hasattr(value, "_asdict"):
        return _plain(value._asdict())
    if isinstance(value, Mapping):
        return {str(key): _plain(inner) for key, inner in value.items()}
    if isinstance(value, np.ndarray | np.generic):
        return _plain(value.tolist())
    if isinstance(value, list | tuple):
        return [_plain(inner) for inner in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
