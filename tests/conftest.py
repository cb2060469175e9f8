"""Every test sees eight simulated CPU devices; most use the first."""

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
# What one test has compiled serves all others, those of other workers and of later runs too. JAX
# names a program by what it computes, the flags and the versions, so none is taken for another.
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(COMPILED))
os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
os.environ["JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES"] = "-1"


def pytest_configure(config):
    """The main process empties a cache that has grown too large before the workers start."""
    if not hasattr(config, "workerinput") and COMPILED.exists():
        if sum(file.stat().st_size for file in COMPILED.iterdir()) > MAX_BYTES:
            shutil.rmtree(COMPILED)


def pytest_collection_finish():
    """Garbage collections pass over the libraries; they take a tenth of the time otherwise."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 20)


# The same examples in every run, as fast as the machine allows.
settings.register_profile("cdt", derandomize=True, deadline=None, max_examples=50, database=None)
settings.load_profile("cdt")
