"""XLA flags for simulated CPU devices and short compilation.

Tests spend most of their time on compilation. Without optimization XLA compiles twice as fast. With
the older emitters of fused loops, which jaxlib 0.10 still has, it is four times faster again.
"""

from importlib.metadata import version

FAST = "--xla_backend_optimization_level=0"
if version("jaxlib").startswith("0.10."):  # an unknown flag ends the process
    FAST += " --xla_cpu_use_fusion_emitters=false"


def xla_flags(devices: int) -> str:
    return f"--xla_force_host_platform_device_count={devices} {FAST}"
