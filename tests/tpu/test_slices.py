"""Placement of the mesh on TPU slices."""

import numpy as np
import pytest

from benchmarks import targets
from cdt.devices import sharding

SIZES = [
    (name, number)
    for name, chip in targets.CHIPS.items()
    if chip.platform == "tpu"
    for number in (1, 8, 64, 256, 1024)
]


@pytest.mark.parametrize("name, number", SIZES)
def test_every_power_of_two_is_a_mesh(name, number):
    """A row of the mesh, which exchanges parameters, stays in one slice if it fits."""
    chip = targets.CHIPS[name]
    devices = targets.devices(chip, number)
    fsdp = 1
    while fsdp <= number:
        mesh = sharding.make_mesh(-1, fsdp, devices)
        assert mesh.devices.shape == (number // fsdp, fsdp)
        assert set(mesh.devices.flat) == set(devices)
        slices = np.vectorize(lambda device: getattr(device, "slice_index", 0))(mesh.devices)
        assert {len(set(row)) for row in slices} == {max(1, fsdp // chip.domain)}
        fsdp *= 2
