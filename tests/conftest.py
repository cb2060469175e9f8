"""Every test sees eight simulated CPU devices; most use the first."""

import os

from hypothesis import settings

from cpu_devices import xla_flags

os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {xla_flags(8)}"
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")


# The same examples in every run, as fast as the machine allows.
settings.register_profile("cdt", derandomize=True, deadline=None, max_examples=50, database=None)
settings.load_profile("cdt")
