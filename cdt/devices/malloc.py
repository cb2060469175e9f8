"""Training on the CPU: memory that one step frees is kept for the next.

XLA:CPU allocates a program's temporary memory anew at each call, and glibc maps and unmaps anything
large: every step then pays a page fault for each 4 KB, 18,000 of them and a quarter of the time on
the digits.
"""

import ctypes
import importlib.metadata
import importlib.util
import os
import platform

# Parameters of mallopt(3), from glibc's malloc.h.
_M_TRIM_THRESHOLD, _M_MMAP_MAX, _M_ARENA_MAX = -1, -4, -8


def keep_freed_memory() -> bool:
    """Make glibc's malloc keep what is freed; the price is a process that never shrinks.

    Must run before JAX starts its threads. Returns whether it did anything: not where the C library
    is another one, nor where JAX has an accelerator plugin and is not told to use the CPU.
    """
    if platform.libc_ver()[0] != "glibc" or not _runs_on_cpu():
        return False
    mallopt = ctypes.CDLL(None).mallopt
    mallopt(_M_ARENA_MAX, 1)  # all threads allocate from the one heap without an upper size
    mallopt(_M_MMAP_MAX, 0)  # nothing is mapped by itself
    mallopt(_M_TRIM_THRESHOLD, -1)  # the heap never shrinks
    return True


def _runs_on_cpu() -> bool:
    platforms = os.environ.get("JAX_PLATFORMS", "")
    if platforms:
        return platforms == "cpu"
    plugins = importlib.metadata.entry_points(group="jax_plugins")
    return not plugins and importlib.util.find_spec("libtpu") is None
