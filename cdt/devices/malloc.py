"""Memory on the CPU: glibc keeps what one step frees for the next step.

XLA:CPU allocates a program's temporary memory again at each call, and glibc maps and unmaps every
large block. Each step then has a page fault per 4 KB: 18,000 faults and a quarter of the time of a
step on the digits.
"""

import ctypes
import importlib.metadata
import importlib.util
import os
import platform

# Parameters of mallopt(3), from glibc's malloc.h.
_M_TRIM_THRESHOLD, _M_MMAP_MAX, _M_ARENA_MAX = -1, -4, -8


def keep_freed_memory() -> bool:
    """Make glibc's malloc keep freed memory; the memory of the process then never shrinks.

    Call it before JAX starts its threads.

    Returns:
      Whether it changed anything: False with another C library, or if JAX may use an accelerator.
    """
    if platform.libc_ver()[0] != "glibc" or not _runs_on_cpu():
        return False
    mallopt = ctypes.CDLL(None).mallopt
    mallopt(_M_ARENA_MAX, 1)  # all threads use the main heap, which has no size limit
    mallopt(_M_MMAP_MAX, 0)  # no block is mapped separately
    mallopt(_M_TRIM_THRESHOLD, -1)  # the heap never shrinks
    return True


def _runs_on_cpu() -> bool:
    platforms = os.environ.get("JAX_PLATFORMS", "")
    if platforms:
        return platforms == "cpu"
    plugins = importlib.metadata.entry_points(group="jax_plugins")
    return not plugins and importlib.util.find_spec("libtpu") is None
