"""Values that several processes exchange, and the rows that each loads."""

from pathlib import Path

import pytest

from host_processes import Processes


@pytest.mark.parametrize(
    ("count", "slurm"), [pytest.param(4, False, marks=pytest.mark.long), (2, True)]
)
def test_what_is_gathered_compared_and_loaded(tmp_path, count, slurm):
    program = str(Path(__file__).with_name("exchange.py"))
    with Processes([program], count, tmp_path, devices=2, slurm=slurm) as processes:
        assert processes.wait() == [0] * count, "".join(processes.err(k) for k in range(count))
        assert processes.out(0).endswith("done\n") and processes.out(1) == ""
