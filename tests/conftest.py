"""Every test sees eight simulated CPU devices; most use the first."""

import os

from hypothesis import settings

os.environ["JAX_PLATFORMS"] = "cpu"
# Without optimisation XLA compiles twice as fast, which is what most of the time goes into.
os.environ["XLA_FLAGS"] = (
    os.environ.get("XLA_FLAGS", "")
    + " --xla_force_host_platform_device_count=8 --xla_backend_optimization_level=0"
)
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")


# The same examples in every run, as fast as the machine allows.
settings.register_profile("cdt", derandomize=True, deadline=None, max_examples=50, database=None)
settings.load_profile("cdt")
