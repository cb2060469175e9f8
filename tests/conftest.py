"""Settings of all tests: eight simulated CPU devices and a shared compilation cache."""

import gc
import os
import shutil
from pathlib import Path

from hypothesis import settings

from cpu_devices import xla_flags

COMPILED = Path(__file__).parents[1] / ".cache" / "compiled"
MAX_BYTES = 2 * 2**30

os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {xla_flags(8)}"
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
# All tests share compiled programs, also with other workers and later runs. The cache key of JAX
# includes the computation, the flags and the versions, so programs are never confused.
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(COMPILED))
os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
os.environ["JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES"] = "-1"


def pytest_configure(config):
    """In the main process, empty a cache that has become too large before the workers start."""
    if not hasattr(config, "workerinput") and COMPILED.exists():
        if sum(file.stat().st_size for file in COMPILED.iterdir()) > MAX_BYTES:
            shutil.rmtree(COMPILED)


def pytest_collection_finish():
    """Exclude the libraries from garbage collection, which otherwise takes a tenth of the time."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 20)


# Hypothesis uses the same examples in every run, without a time limit.
settings.register_profile("cdt", derandomize=True, deadline=None, max_examples=50, database=None)
settings.load_profile("cdt")
