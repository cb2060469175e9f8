"""Results as JSON: arrays, named tuples, and null for NaN and inf."""

import json
import math
from typing import NamedTuple

import numpy as np

from cdt.files.plain_json import to_json


class Point(NamedTuple):
    x: float
    y: np.ndarray


def test_json_has_everything_and_null_for_nan_and_inf():
    point = Point(0.1 + 0.2, np.array([[1, 2]]))
    results = {"a": np.array([1.0, np.nan]), 3: [np.bool_(True), math.inf, None, "x"], "p": point}
    assert json.loads(to_json(results)) == {
        "a": [1.0, None],
        "3": [True, None, None, "x"],
        "p": {"x": 0.1 + 0.2, "y": [[1, 2]]},
    }
