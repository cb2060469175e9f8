"""Differences between processes; tests/hosts has tests with several processes."""

import pytest

from cdt.devices.agreement import check_equal, differences, errors_of_all, gather
from cdt.errors import UserError
from cdt.workdir.manifest import library_versions


def test_differences_name_every_value_and_its_processes():
    settings = [{"a": 1, "b": [1, 2]}, {"a": 1, "b": [1, 3]}, {"a": 1, "b": [1, 2], "c": None}]
    assert differences(settings) == [
        "b ([1, 2] on process 0, 2 and [1, 3] on process 1)",
        "c (missing on process 0, 1 and null on process 2)",
    ]
    assert differences(settings[:1]) == differences([settings[0]] * 4) == []


def test_mixed_library_versions_are_differences():
    mine = library_versions()
    assert {"jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy", "cdt", "Python"} == set(
        mine
    )
    (phrase,) = differences([mine, mine | {"jaxlib": "0.1.2"}])
    assert phrase.startswith("jaxlib (") and '"0.1.2" on process 1' in phrase


def test_one_process_agrees_with_itself():
    assert gather({"a": (1, 2)}) == [{"a": (1, 2)}]
    check_equal({"a": 1})
    with pytest.raises(UserError, match=r"^No file\.$"), errors_of_all():
        raise UserError("No file.")
