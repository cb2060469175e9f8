"""XLA's persistent compilation cache: the second start of a run skips compilation."""

import os

import jax


def use_persistent_cache(folder: str) -> None:
    """Keeps compiled programs in `folder` (local or a bucket); an empty string switches it off.

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
