"""The command line of `python -m cdt.main`, called in the process of the test."""

import contextlib
import io
import logging
import sys
from collections.abc import Sequence
from typing import NamedTuple

import jax
from absl import flags
from absl.testing import flagsaver

from cdt import main

# What a run sets for its process.
_OPTIONS = (
    "jax_compilation_cache_dir",
    "jax_persistent_cache_min_compile_time_secs",
    "jax_persistent_cache_min_entry_size_bytes",
)


class Result(NamedTuple):
    """As of a process that has ended."""

    returncode: int
    stdout: str
    stderr: str


@contextlib.contextmanager
def flags_of(argv: list[str]):
    """Flags as at the start of a process with this command line."""
    before = sys.argv
    try:
        with flagsaver.flagsaver():
            sys.argv = argv  # which ml_collections reads the overrides from
            yield argv
    finally:
        sys.argv = before
        flags.FLAGS.unparse_flags()


@contextlib.contextmanager
def options_kept():
    """JAX's options are afterwards what they were."""
    before = {name: getattr(jax.config, name) for name in _OPTIONS}
    try:
        yield
    finally:
        for name, value in before.items():
            jax.config.update(name, value)


def with_cache(arguments: Sequence[str]) -> list[str]:
    """The same, and compiled programs are kept where those of the tests are."""
    if not any(argument.startswith("--config=") for argument in arguments):
        return [*arguments]
    folder = jax.config.jax_compilation_cache_dir or ""
    return [*arguments, f"--config.compilation_cache={folder}"]


def cdt(*arguments: str, command=None) -> Result:
    """Runs the program with these arguments; what Python code writes and logs is captured.

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
            flags_of(argv),
            options_kept(),
            contextlib.redirect_stdout(out),
            contextlib.redirect_stderr(error),
        ):
            code = main.run_command_line(argv, command)
    finally:
        logging.getLogger().removeHandler(handler)
    return Result(code, out.getvalue(), error.getvalue())
