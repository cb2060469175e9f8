"""XLA's flags for simulated CPU devices whose programs compile soon.

Most of the tests' time goes into compilation. Without optimisation XLA is twice as fast at it, and
with its older emitters of fused loops four times faster again.
"""

FAST = "--xla_backend_optimization_level=0 --xla_cpu_use_fusion_emitters=false"


def xla_flags(devices: int) -> str:
    return f"--xla_force_host_platform_device_count={devices} {FAST}"
