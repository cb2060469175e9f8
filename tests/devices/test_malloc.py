import resource
import subprocess
import sys

import pytest

from cdt.devices import malloc

# Frees and takes 64 MB ten times, after warming up, and counts the page faults.
PROGRAM = """
import resource, sys
sys.path.insert(0, {root!r})
from cdt.devices.malloc import keep_freed_memory
print(keep_freed_memory())
def touch():
    block = bytearray(64 << 20)
    block[::4096] = bytes(len(block[::4096]))
touch(); touch()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(10):
    touch()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.parametrize(("platforms", "applies"), [("cpu", True), ("cuda", False)])
def test_freed_memory_is_kept_on_the_cpu_alone(platforms, applies):
    root = malloc.__file__.rpartition("/cdt/")[0]
    result = subprocess.run(
        [sys.executable, "-c", PROGRAM.format(root=root)],
        env={"JAX_PLATFORMS": platforms}, capture_output=True, text=True, check=True,
    )  # fmt: skip
    said, faults = result.stdout.split()
    if malloc.platform.libc_ver()[0] != "glibc":
        assert said == "False"
        return
    assert said == str(applies)
    pages = 10 * (64 << 20) // resource.getpagesize()
    assert (int(faults) < pages / 20) == applies
