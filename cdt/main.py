"""The front door.

    python -m cdt.main --config=configs/digits.py --workdir=DIR [--mode=train|sample|evaluate]
                       [--config.optim.lr=2e-4 ...]

Running the same command again resumes. Exit codes: 0 finished; 2 something given was wrong (one
sentence says what); 3 stopped by NaN or inf in the loss or its gradient; 75 saved after a signal,
or another process of the run was lost: run again.

On several hosts the same command is started on each. SLURM, Cloud TPU and Kubernetes tell the
processes of each other; elsewhere --coordinator, --num_processes and --process_id do.
"""

import importlib
import logging
import os
import sys
import traceback
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

# Read by TensorFlow when the metric writers import it: nobody wants its banner.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

from absl import flags
from ml_collections import ConfigDict, config_flags
from ml_collections.config_flags import config_path

from cdt import __version__
from cdt import config as schema
from cdt.devices.malloc import keep_freed_memory
from cdt.errors import EXIT_FINISHED, EXIT_USER_ERROR, UserError, storage_errors
from cdt.old_keys import moved_in

FLAGS = flags.FLAGS
# Each is a module of `cdt.modes` with a function of the same name.
MODES = ("train", "sample", "evaluate", "difficulty", "compare", "replay")
# Those that several processes take part in together.
SHARED_MODES = ("train", "sample", "evaluate", "replay")
# Those that may run while another trains in the same workdir.
READING_MODES = ("sample", "evaluate", "replay")

config_flags.DEFINE_config_file(
    "config", None, "Config file, FILE or FILE:VARIANT, such as configs/digits.py:smoke."
)
flags.DEFINE_string("workdir", None, "Folder of the run: checkpoints, metrics, samples.")
flags.DEFINE_string("mode", "train", f"One of {', '.join(MODES)}.")
flags.DEFINE_string("coordinator", None, "Of several processes: HOST:PORT where process 0 listens.")
flags.DEFINE_integer("num_processes", None, "Of the run; 1 looks for no cluster.")
flags.DEFINE_integer("process_id", None, "Of this process, in [0, num_processes).")
flags.DEFINE_integer("connect_seconds", 300, "How long the processes wait for each other.")
flags.DEFINE_integer("heartbeat_seconds", 100, "Without a sign of life, for a process to be lost.")


def parse(argv: list[str]) -> tuple[ConfigDict, str, str]:
    """(config, workdir, mode) from the command line.

    Raises:
      UserError: a flag, config key or mode is unknown or missing, or the config cannot be read.
    """
    argv = [_with_shipped_config(argument) for argument in argv]
    try:
        rest = FLAGS(argv)
        config = FLAGS.config
        if config is not None:
            config.keys()  # ml_collections tells of a file that failed to load only on access
    except flags.IllegalFlagValueError as error:
        raise UserError(f"{error}; give a value of the key's type.") from None
    except flags.Error as error:
        raise UserError(
            f"{error}; the flags are --config, --workdir and --mode, and of several processes "
            "--coordinator, --num_processes, --process_id, --connect_seconds, --heartbeat_seconds."
        ) from None
    except Exception as error:  # a config file is a program: it may raise anything
        raise _unusable(error, argv) from None
    if rest[1:]:
        raise UserError(f"'{rest[1]}' is not a flag; write --name=value.")
    if config is None:
        raise UserError("--config is missing; give a config such as --config=configs/digits.py.")
    if not FLAGS.workdir:
        raise UserError("--workdir is missing; give the folder in which the run lives.")
    if FLAGS.mode not in MODES:
        raise UserError(f"--mode is '{FLAGS.mode}'; {schema.nearest(FLAGS.mode, MODES)}")
    return config, os.path.expanduser(FLAGS.workdir), FLAGS.mode


def _unusable(error: Exception, argv: list[str]) -> UserError:
    """The error for what was raised while the config file ran, or while the keys on the command
    line were looked up in its config."""
    cause: BaseException = error  # the innermost, which says what was wrong
    while inner := cause.__cause__ or cause.__context__:
        cause = inner
    if isinstance(cause, UserError):
        return cause
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    if any(frame.f_globals["__name__"] == config_path.__name__ for frame in frames):
        # Now that the file has run, the schema has the sections that it registers.
        known = schema.flatten(schema.default_config())
        keys = [argument.lstrip("-").partition("=")[0] for argument in argv[1:]]
        for key in keys:
            if key.startswith("config.") and key[7:] not in known:
                return schema.unknown_key(key[7:])
    for line in reversed([part.line or "" for part in traceback.extract_tb(error.__traceback__)]):
        if sentence := moved_in(line):
            return UserError(sentence)
    path = next((a.partition("=")[2] for a in argv if a.startswith("--config=")), "")
    reason = f"{type(cause).__name__}: {' '.join(str(cause).split())}"
    if not os.path.exists(path.partition(":")[0]):
        reason = "there is no such file"
    return UserError(
        f"The config file '{path}' cannot be used ({reason}); give the path of a Python file "
        "with a function get_config(variant)."
    )


def _with_shipped_config(argument: str) -> str:
    """--config=configs/NAME.py is the installed one where the working directory has none."""
    flag, equals, name = argument.partition("=")
    path = Path(name.partition(":")[0])
    shipped = Path(__file__).parent / path
    if flag.lstrip("-") != "config" or path.parent.name != "configs" or path.exists():
        return argument
    return f"{flag}{equals}{Path(__file__).parent / name}" if shipped.exists() else argument


def run_command_line(
    argv: list[str],
    command: Callable[[ConfigDict, str], int] | None = None,
    command_writes: bool = True,
) -> int:
    """Run a command line; return the exit code.

    Args:
      argv: see above.
      command: (config, workdir) -> exit code, what to run in place of --mode.
      command_writes: in the workdir, so that no run may be training there.
    """
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    if argv[1:] == ["--version"]:
        print(f"cdt {__version__}")
        return EXIT_FINISHED
    try:
        config, workdir, mode = parse(argv)
        schema.check_keys(config)
        schema.with_fitted_edges(config)
        keep_freed_memory()  # before JAX starts its threads
        # Imported once the command line is known to be sound: JAX takes a second to load.
        from cdt.devices import processes
        from cdt.devices.compilation import use_persistent_cache
        from cdt.devices.memory import memory_errors
        from cdt.workdir.lock import locked

        use_persistent_cache(config.compilation_cache)
        processes.join(
            FLAGS.coordinator,
            FLAGS.num_processes,
            FLAGS.process_id,
            connect_seconds=FLAGS.connect_seconds,
            heartbeat_seconds=FLAGS.heartbeat_seconds,
            stops_together=command is None and mode == "train",
        )
        with processes.together():
            if processes.several():
                _check_alike(config, workdir, mode)
                if command is not None or mode not in SHARED_MODES:
                    raise UserError(
                        "This program runs in one process, on all devices of one host; start one "
                        "(SLURM: --ntasks=1), without --coordinator or with --num_processes=1."
                    )
            writes = command_writes
            if command is None:
                writes = mode not in READING_MODES
                command = getattr(importlib.import_module(f"cdt.modes.{mode}"), mode)
            with (
                locked(workdir) if writes else nullcontext(),
                storage_errors(),
                memory_errors(),
            ):
                return command(config, workdir)
    except UserError as error:
        print(f"cdt: {error}", file=sys.stderr)
        return EXIT_USER_ERROR


def _check_alike(config: ConfigDict, workdir: str, mode: str) -> None:
    """Raise UserError unless all processes were started alike and run the same libraries."""
    from cdt.devices.agreement import check_alike
    from cdt.workdir.manifest import library_versions

    told = {f"config.{key}": value for key, value in schema.flatten(config).items()}
    versions = {f"the version of {name}": value for name, value in library_versions().items()}
    check_alike({"--workdir": workdir, "--mode": mode} | told | versions)


def main() -> int:
    """The command `cdt`."""
    return run_command_line(sys.argv)


if __name__ == "__main__":
    sys.exit(main())
