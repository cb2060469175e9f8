"""Train steps compiled for accelerators that are not at hand, one or many.

For TPUs this needs libtpu (jax[tpu]), for GPUs the CUDA plugin (jax[cuda13]), and neither a TPU nor
a GPU: `JAX_PLATFORMS=cpu` keeps JAX from looking for one.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple
from unittest import mock

import jax
import jax.numpy as jnp
from jax.experimental import topologies
from ml_collections import ConfigDict

from benchmarks.cases import first_batch
from cdt import from_config
from cdt.devices import sharding
from cdt.devices.compilation import compile_program
from cdt.models import layers

# What XLA would read off the chip. Without one it cannot try kernels either, hence no autotuning.
_H100 = """
gpu_device_info {
  threads_per_block_limit: 1024 threads_per_warp: 32 shared_memory_per_block: 49152
  shared_memory_per_core: 233472 threads_per_core_limit: 2048 core_count: 132 fpus_per_core: 128
  block_dim_limit_x: 2147483647 block_dim_limit_y: 65535 block_dim_limit_z: 65535
  memory_bandwidth: 3352320000000 l2_cache_size: 52428800 clock_rate_ghz: 1.98
  device_memory_size: 84929347584 shared_memory_per_block_optin: 232448
  cuda_compute_capability { major: 9 } registers_per_core_limit: 65536
  registers_per_block_limit: 65536
}
platform_name: "CUDA"
dnn_version_info { major: 9 minor: 12 patch: 0 }
runtime_version { major: 13 minor: 0 patch: 0 }
device_description_str: "NVIDIA H100 80GB HBM3"
"""


class Chip(NamedTuple):
    """Data sheets; links as in Austin et al. 2025, "How to Scale Your Model"."""

    name: str
    platform: str  # "tpu" or "cuda"
    memory: float  # bytes
    link: float  # bytes/s that a chip sends within a domain: both directions of a torus' axis
    domain: int  # chips that such links join
    network: float  # bytes/s of a chip's share of what joins domains
    layouts: dict[int, str]  # number of chips: how those of one domain lie


_SQUARES = {1: "1x1", 8: "2x4", 64: "8x8", 256: "16x16"}
_CUBES = {1: "1x1x1", 8: "2x2x2", 64: "4x4x4", 256: "4x8x8", 1024: "8x8x16"}
CHIPS = {
    chip.name: chip
    for chip in (
        Chip("v5e", "tpu", 16e9, 90e9, 256, 3.1e9, _SQUARES),
        Chip("v5p", "tpu", 95e9, 180e9, 8960, 6.2e9, _CUBES),
        Chip("v6e", "tpu", 32e9, 180e9, 256, 12.5e9, _SQUARES),
        Chip("h100", "cuda", 80e9, 450e9, 8, 50e9, {}),
    )
}


def devices(chip: Chip, number: int) -> list[jax.Device]:
    """Abstract devices, neighbours in number within a domain.

    Args:
      chip: which.
      number: one of its `layouts`, or whole domains.
    """
    if chip.platform == "cuda":
        near = min(number, chip.domain)
        return topologies.get_topology_desc(
            platform="cuda", target_config=_H100, topology=f"1x{number // near}x{near}"
        ).devices
    slices = -(-number // chip.domain)
    options = {"num_slices": slices} if slices > 1 else {}
    if number == 1:
        options["chips_per_host_bounds"] = (1, 1, 1)
    layout = chip.layouts[number // slices]
    return topologies.get_topology_desc(
        platform="tpu", topology_name=f"{chip.name}:{layout}", **options
    ).devices


@contextmanager
def traced_for(chip: Chip) -> Iterator[None]:
    """Programs are traced as they would be on the chip."""
    backend = "gpu" if chip.platform == "cuda" else "tpu"

    def fused(dtype, head_dim: int) -> bool:
        return backend == "gpu" and dtype == jnp.bfloat16

    with (
        mock.patch.object(jax, "default_backend", lambda: backend),
        mock.patch.object(layers, "has_fused_attention", fused),
    ):
        yield


def compiled_step(
    config: ConfigDict, chip: Chip, number: int = 1, fsdp: int = 1
) -> jax.stages.Compiled:
    """The train step of a config on `number` chips, `fsdp` of which share the state.

    Raises:
      jax.errors.JaxRuntimeError: a TPU's memory does not hold it (RESOURCE_EXHAUSTED).
    """
    with traced_for(chip):
        mesh = sharding.make_mesh(-1, fsdp, devices(chip, number))
        batch, size = first_batch(config)
        model = from_config.model(config, mesh)
        parts = from_config.training(
            config, model, mesh.size, size, from_config.open_all_at(config, size)
        )
        shapes = jax.eval_shape(parts.init, jax.random.key(0))
        placed = sharding.state_sharding(mesh, shapes, config.mesh.min_shard_size)
        program = jax.jit(
            parts.step, donate_argnums=0, out_shardings=(placed, sharding.replicated(mesh))
        )
        return compile_program(
            program.lower(
                sharding.abstract(shapes, placed),
                sharding.abstract_batch(mesh, batch, config.train.batch_size),
            )
        )


def prepare_environment() -> None:
    """Before JAX starts: no search for kernels, and libtpu neither asks the cloud what it runs on
    nor keeps other processes from loading it."""
    os.environ["XLA_FLAGS"] = os.environ.get("XLA_FLAGS", "") + " --xla_gpu_autotune_level=0"
    os.environ |= {
        "TPU_SKIP_MDS_QUERY": "1",
        "TPU_WORKER_HOSTNAMES": "localhost",
        "TPU_ACCELERATOR_TYPE": "v5litepod-1",
        "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
    }
