"""The command line of `python -m cdt.main`, called in the process of the test."""

import contextlib
import io
import logging
from collections.abc import Sequence
from typing import NamedTuple

import jax

from cdt import main

# Options that a run sets for its process.
_OPTIONS = (
    "jax_compilation_cache_dir",
    "jax_persistent_cache_min_compile_time_secs",
    "jax_persistent_cache_min_entry_size_bytes",
)


class Result(NamedTuple):
    """The result of a process that has ended."""

    returncode: int
    stdout: str
    stderr: str


@contextlib.contextmanager
def options_kept():
    """Restore JAX's options afterwards."""
    before = {name: getattr(jax.config, name) for name in _OPTIONS}
    try:
        yield
    finally:
        for name, value in before.items():
            jax.config.update(name, value)


def with_cache(arguments: Sequence[str]) -> list[str]:
    """Return the arguments, with the tests' folder of compiled programs for a command that has a
    config."""
    if not any(argument.startswith("--config=") for argument in arguments):
        return [*arguments]
    folder = jax.config.jax_compilation_cache_dir or ""
    return [*arguments, f"--config.compilation_cache={folder}"]


def cdt(*arguments: str, command=None) -> Result:
    """Run the program with these arguments; capture what Python code prints and logs.

    Args:
      arguments: of the command line.
      command: in place of --mode, as in `cdt.main.run_command_line`.
    """
    out, error = io.StringIO(), io.StringIO()
    handler = logging.StreamHandler(error)
    handler.setLevel(logging.WARNING)
    logging.getLogger().addHandler(handler)
    argv = ["cdt.main", *with_cache(arguments)]
    try:
        with (
            options_kept(),
            contextlib.redirect_stdout(out),
            contextlib.redirect_stderr(error),
        ):
            code = main.run_command_line(argv, command)
    finally:
        logging.getLogger().removeHandler(handler)
    return Result(code, out.getvalue(), error.getvalue())
