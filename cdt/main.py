"""The command `python -m cdt.main`: its flags, the choice of a mode, its exit codes."""

import importlib
import os
import sys
import textwrap
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from pathlib import Path

# TensorFlow reads this when the metric writers import it, and then prints no banner.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

from absl import flags
from ml_collections import ConfigDict

from cdt import config as schema
from cdt import key_table, usage
from cdt.config import load_config, override, split_overrides
from cdt.config.synonyms import flag_meant, mode_meant
from cdt.devices import launcher
from cdt.devices.malloc import keep_freed_memory
from cdt.errors import EXIT_USER_ERROR, UserError, storage_errors
from cdt.monitoring import console

# Each is a module of `cdt.modes` with a function of the same name.
MODES = ("train", "sample", "evaluate", "difficulty", "compare", "replay")
# Modes in which several processes take part together.
SHARED_MODES = ("train", "sample", "evaluate", "replay")
# Modes that may run while another process trains in the same workdir.
READING_MODES = ("sample", "evaluate", "replay")

HELP = """
cdt trains diffusion models with a curriculum over noise levels.

Usage:
  python -m cdt.main --config=FILE[:VARIANT] --workdir=DIR [--mode=MODE]
                     [--config.KEY=VALUE ...]

  After `pip install`, `cdt` is short for `python -m cdt.main`.
  The same command again resumes the run.

Modes:
  train        train the run in DIR (the default)
  sample       generate images from the newest checkpoint
  evaluate     compare generated images with the data or a reference (FID)
  difficulty   measure how hard each noise level is, and fit a curriculum
  compare      train several variants under equal conditions; write a report
  replay       repeat one step, to find the source of a NaN

Flags:
  --config=FILE[:VARIANT]  Python file with get_config(variant)
  --workdir=DIR            folder of the run, local or gs://
  --mode=MODE              see above
  --config.KEY=VALUE       change a config key for this command
  --help=SECTION           list config keys with defaults: --help=optim
  --version                print the version
  --coordinator=HOST:PORT, --num_processes=N, --process_id=K
                           connect several processes (docs/launch.md); also
                           --connect_seconds=300, --heartbeat_seconds=100

Examples:
  python -m cdt.main --config=configs/digits.py --workdir=runs/digits
  python -m cdt.main --config=configs/digits.py --workdir=runs/digits \\
      --mode=sample --config.sample.num=16
  python -m cdt.main --config=configs/digits.py:smoke --workdir=runs/smoke \\
      --config.optim.lr=2e-4

Config keys:
{sections}

Exit codes: 0 finished, 2 wrong input, 3 stopped by NaN or inf,
75 stopped by a signal (run the same command again), 76 one process failed.
"""


def define_flags(own: Sequence[str] = ()) -> flags.FlagValues:
    """Return the flags of the command, without values.

    Args:
      own: names of more flags, of type string, of another program.
    """
    known = flags.FlagValues()
    for name in ("config", "workdir", "coordinator", *own):
        flags.DEFINE_string(name, None, "see HELP", flag_values=known)
    flags.DEFINE_string("mode", "train", "see HELP", flag_values=known)
    for name, default in (
        ("num_processes", None),
        ("process_id", None),
        ("connect_seconds", 300),
        ("heartbeat_seconds", 100),
    ):
        flags.DEFINE_integer(name, default, "see HELP", flag_values=known)
    return known


def parse(
    argv: Sequence[str], own: Sequence[str] = ()
) -> tuple[ConfigDict, str, str, flags.FlagValues]:
    """Parse a command line.

    Args:
      argv: the command line, beginning with the program's name.
      own: see `define_flags`.

    Returns:
      (config, workdir, mode, all flags).

    Raises:
      UserError: a flag, config key or mode is unknown or missing, or the config cannot be loaded.
    """
    given = define_flags(own)
    others, overrides = split_overrides(argv)
    try:
        rest = given(others)
    except flags.UnrecognizedFlagError as error:
        raise _unknown_flag(error.flagname, others, list(given)) from None
    except flags.Error as error:
        raise UserError(f"{error}; --help lists the flags.") from None
    if rest[1:]:
        raise _no_flag(rest[1])
    if given.config is None:
        raise UserError("--config is missing; give a config such as --config=configs/digits.py.")
    if not given.workdir:
        raise UserError("--workdir is missing; give the folder of the run.")
    if given.mode not in MODES:
        meant = mode_meant(given.mode)
        hint = f"did you mean '{meant}'?" if meant else schema.nearest(given.mode, MODES)
        raise UserError(f"--mode is '{given.mode}'; {hint}")
    config = load_config(given.config)
    for key, value in overrides:
        override(config, key, value)
    return config, os.path.expanduser(given.workdir), given.mode, given


def _unknown_flag(name: str, argv: Sequence[str], known: Sequence[str]) -> UserError:
    """The error for a flag that does not exist, with a suggestion."""
    written = next((a for a in argv if a.lstrip("-").partition("=")[0] == name), name)
    _, equals, value = written.partition("=")
    if schema.has_key(schema.default_config(), name):
        hint = f"did you mean --config.{name}{equals}{value}?"
    elif flag := flag_meant(name) or schema.closest(name, known):
        hint = f"did you mean --{flag}{equals}{value}?"
    elif key := schema.suggested_key(name):
        hint = f"did you mean --config.{key}{equals}{value}?"
    else:
        hint = "--help lists the flags."
    return UserError(f"There is no flag --{name}; {hint}")


def _no_flag(word: str) -> UserError:
    """The error for an argument without dashes, with a suggestion."""
    key = word.partition("=")[0].removeprefix("config.")
    if word in MODES:
        hint = f"did you mean --mode={word}?"
    elif word.partition(":")[0].endswith(".py"):
        hint = f"did you mean --config={word}?"
    elif schema.has_key(schema.default_config(), key):
        hint = f"did you mean --config.{word.removeprefix('config.')}?"
    else:
        hint = "write --NAME=VALUE."
    return UserError(f"'{word}' is not a flag; {hint}")


def explain(topic: str, argv: Sequence[str] = ()) -> str:
    """Return the text of --help=TOPIC: the keys of a config section with their defaults.

    Args:
      topic: such as "optim", "curriculum.patience" or "optim.lr".
      argv: with --config, the sections that this config registers are known too.

    Raises:
      UserError: there is no such section or key.
    """
    known = key_table.sections(key_table.SOURCE.read_text())
    for argument in argv:
        if argument.lstrip("-").startswith("config="):
            load_config(argument.partition("=")[2])
    for name, keys in schema.added_sections().items():
        listed = [key_table.Key(f"{name}.{k}", repr(v), "") for k, v in keys.items()]
        known.append(key_table.Section(name, "registered by the config file", listed))
    topic = topic.removeprefix("config.")
    text = key_table.listing(topic, known)
    if text is None:
        names = [s.name for s in known if s.name and "." not in s.name]
        meant = schema.closest(topic, names) or schema.suggested_key(topic)
        hint = f"did you mean --help={meant}?" if meant else f"there are {', '.join(names)}."
        raise UserError(f"--help={topic} is not a section or key of the config; {hint}")
    return f"{text}\n\nChange a key with --config.SECTION.NAME=VALUE."


def _help() -> str:
    """HELP with the names of the config sections."""
    config = schema.default_config()
    names = ", ".join(name for name, value in config.items() if isinstance(value, ConfigDict))
    text = f"--help=SECTION lists the keys of {names}. cdt/config/schema.py has all keys."
    return HELP.format(sections=textwrap.indent(textwrap.fill(text, 76), "  "))


def run_command_line(
    argv: Sequence[str],
    command: Callable[..., int] | None = None,
    own: Sequence[str] = (),
    command_writes: bool = True,
) -> int:
    """Run a command line; return the exit code.

    Args:
      argv: see HELP.
      command: (config, workdir, *values) -> exit code, which runs in place of --mode; the values
        are those of the flags `own`, empty strings where not given.
      own: names of the flags of the command.
      command_writes: whether the command writes in the workdir, where then no run may be training.
    """
    console.open_console()
    try:
        answered = usage.answer(argv, _help(), lambda topic: explain(topic, argv))
        if answered is not None:
            return answered
        config, workdir, mode, given = parse(argv, own)
        schema.check_keys(config)
        schema.with_fitted_edges(config)
        if command_writes if command else mode != "replay":
            _check_writable(workdir)
        process = launcher.process_id() if given.process_id is None else given.process_id
        name = mode if command is None else Path(argv[0]).stem
        console.start(name, given.config, workdir, process)
        keep_freed_memory()  # before JAX starts its threads
        # Imported after the command line has been checked: JAX takes a second to load.
        with console.phase("importing JAX"):
            from cdt.devices import processes
            from cdt.devices.compilation import use_persistent_cache
            from cdt.devices.memory import memory_errors
            from cdt.workdir.lock import locked

        use_persistent_cache(config.compilation_cache)
        processes.join(
            given.coordinator,
            given.num_processes,
            given.process_id,
            connect_seconds=given.connect_seconds,
            heartbeat_seconds=given.heartbeat_seconds,
            stops_together=command is None and mode == "train",
        )
        with processes.together():
            if processes.several():
                _check_equal(config, workdir, mode)
                if command is not None or mode not in SHARED_MODES:
                    raise UserError(
                        "Several processes were started, but this program runs in one process, "
                        "on all devices of one host; start one (SLURM: --ntasks=1), without "
                        "--coordinator or with --num_processes=1."
                    )
            if command is None:
                writes, values = mode not in READING_MODES, []
                with console.phase(f"importing cdt.modes.{mode}"):
                    command = getattr(importlib.import_module(f"cdt.modes.{mode}"), mode)
            else:
                writes, values = command_writes, [given[name].value or "" for name in own]
            with (
                locked(workdir) if writes else nullcontext(),
                storage_errors(),
                memory_errors(),
            ):
                return command(config, workdir, *values)
    except UserError as error:
        print(f"cdt: {error}", file=sys.stderr)
        return EXIT_USER_ERROR


def _check_writable(workdir: str) -> None:
    """Raise UserError if a local workdir, or the folder to create it in, is read-only."""
    if "://" in workdir:
        return
    folder = Path(workdir).absolute()
    while not folder.exists():
        folder = folder.parent
    if not os.access(folder, os.W_OK):
        raise UserError(
            f"The workdir {workdir} cannot be written to ({folder} is read-only or not yours); "
            "choose another --workdir, or fix the permissions."
        )


def _check_equal(config: ConfigDict, workdir: str, mode: str) -> None:
    """Raise UserError unless all processes have the same command line and libraries."""
    from cdt.devices.agreement import check_equal
    from cdt.workdir.manifest import library_versions

    given = {f"config.{key}": value for key, value in schema.flatten(config).items()}
    versions = {f"the version of {name}": value for name, value in library_versions().items()}
    check_equal({"--workdir": workdir, "--mode": mode} | given | versions)


def main() -> int:
    """Run the command line of this process; the console script `cdt`."""
    return run_command_line(sys.argv)


if __name__ == "__main__":
    sys.exit(main())
