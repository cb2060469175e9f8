"""Compiling fast: a persistent cache, and several programs side by side."""

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import jax

_OPTIONS: dict[str, dict[str, str | bool]] = {
    # XLA:CPU copies donated state that one loop reads while another writes it; deciding by regions
    # of the program, as other backends do, saves many of these copies (4 % of a step of DiT-S/4).
    "cpu": {"xla_cpu_copy_insertion_use_region_analysis": True},
    # XLA:GPU tries each product as a Triton kernel too. cuBLAS wins nearly all, but by then the
    # bias and the GELU that it can take along have a kernel of their own (4 % of DiT-XL/2, and
    # half of the time to compile).
    "gpu": {"xla_gpu_enable_triton_gemm": False},
}


def use_persistent_cache(folder: str) -> None:
    """Keep compiled programs in `folder` (local or a bucket); an empty string switches it off.

    Every program is kept however short its compilation was: at start-up there are dozens of small
    ones, which together take seconds.
    """
    if not folder:
        return
    if "://" not in folder:
        folder = os.path.expanduser(folder)
    jax.config.update("jax_compilation_cache_dir", folder)
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)


def compiler_options() -> dict[str, str | bool] | None:
    """The options of XLA that serve the backend, for the large programs of a run."""
    return _OPTIONS.get(jax.default_backend())


def compile_program(program: jax.stages.Lowered) -> jax.stages.Compiled:
    """Compile one lowered program with the options that serve the backend."""
    return program.compile(compiler_options=compiler_options())


def compile_together(programs: Sequence[jax.stages.Lowered]) -> list[jax.stages.Compiled]:
    """Compile lowered programs at the same time: XLA holds no Python lock while it works."""
    with ThreadPoolExecutor() as pool:
        return list(pool.map(compile_program, programs))
