"""Compilation of train steps for one or many accelerators that are not available.

For TPUs it needs libtpu (jax[tpu]), for GPUs the CUDA plugin (jax[cuda13]), but no TPU or GPU. With
`JAX_PLATFORMS=cpu` JAX does not search for one.
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

# Properties that XLA otherwise reads from the chip. Without a chip, kernels cannot be autotuned.
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
    """A chip, from data sheets; links from Austin et al. 2025, "How to Scale Your Model"."""

    name: str
    platform: str  # "tpu" or "cuda"
    memory: float  # bytes
    link: float  # bytes/s that a chip sends within a domain: both directions of a torus axis
    domain: int  # number of chips that such links connect
    network: float  # bytes/s that a chip sends to other domains
    layouts: dict[int, str]  # number of chips in a domain -> topology


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
    """Return abstract devices; those of one domain are consecutive.

    Args:
      chip: the chip.
      number: of devices; a key of `layouts`, or a multiple of `domain`.
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
    """Trace programs in a `with` block as on the chip."""
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
    """Return the compiled train step of a config for `number` chips.

    Args:
      config: of the run.
      chip: the chip.
      number: of chips.
      fsdp: number of chips over which the state is split.

    Raises:
      jax.errors.JaxRuntimeError: it does not fit into the memory of a TPU (RESOURCE_EXHAUSTED).
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
    """Set environment variables; call it before JAX starts.

    XLA then does not autotune kernels. libtpu does not query the cloud, and several processes can
    load it.
    """
    os.environ["XLA_FLAGS"] = os.environ.get("XLA_FLAGS", "") + " --xla_gpu_autotune_level=0"
    os.environ |= {
        "TPU_SKIP_MDS_QUERY": "1",
        "TPU_WORKER_HOSTNAMES": "localhost",
        "TPU_ACCELERATOR_TYPE": "v5litepod-1",
        "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
    }
