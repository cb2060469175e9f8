"""Every test sees eight simulated CPU devices; most use the first."""

import os
import tempfile

from hypothesis import settings

from cpu_devices import xla_flags

os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {xla_flags(8)}"
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0.1"


def pytest_configure(config):
    """What one test has compiled serves all others, those of other workers too."""
    if not hasattr(config, "workerinput"):
        cache = tempfile.TemporaryDirectory(prefix="cdt-compiled-")
        config.add_cleanup(cache.cleanup)
        os.environ["JAX_COMPILATION_CACHE_DIR"] = cache.name


# The same examples in every run, as fast as the machine allows.
settings.register_profile("cdt", derandomize=True, deadline=None, max_examples=50, database=None)
settings.load_profile("cdt")
