"""Loading of a config file, and the changes that `--config.KEY=VALUE` makes to its config."""

import ast
import importlib.util
import inspect
import linecache
import os
import re
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType

from ml_collections import ConfigDict, FrozenConfigDict

from cdt import config as schema
from cdt.errors import UserError
from cdt.old_keys import moved_in

_FIX = "give a Python file with a function get_config(variant), such as configs/digits.py"
_TRUE, _FALSE = ("true", "t", "1"), ("false", "f", "0")


def load_config(name: str) -> ConfigDict:
    """Return the config of a file.

    The file's folder is on `sys.path` while the file runs, so that it can import files from there.

    Args:
      name: FILE or FILE:VARIANT; "configs/NAME.py" is the shipped file where the working directory
        has none.

    Raises:
      UserError: the file is missing or is not such a program, or it raises an error.
    """
    file, colon, variant = name.partition(":")
    path = _shipped(Path(file).expanduser())
    _check_file(path)
    with _errors_located(path), _folder_on_path(path):
        module = _run(path)
        get_config = getattr(module, "get_config", None)
        if not callable(get_config):
            raise UserError(f"--config is '{file}', which has no function get_config; {_FIX}.")
        config = get_config(*_arguments(get_config, file, variant if colon else None))
    if isinstance(config, FrozenConfigDict):
        config = ConfigDict(config)
    if not isinstance(config, ConfigDict):
        returned = "None" if config is None else schema.kind_of(config)
        raise UserError(
            f"get_config of '{file}' returns {returned}; it must return the ConfigDict that it got "
            "from cdt.config.default_config()."
        )
    _check_assignments(config, path)
    return config.lock()


def _shipped(path: Path) -> Path:
    """The installed configs/NAME.py where the working directory has none."""
    installed = Path(__file__).parent / path
    missing = path.parent.name == "configs" and not path.exists()
    return installed if missing and installed.exists() else path


def _check_file(path: Path) -> None:
    """Raise UserError for what cannot be a Python file."""
    problem = ""
    if path.is_dir():
        problem = "which is a folder"
    elif not path.exists():
        problem = "which does not exist"
        if path.suffix == "" and path.with_name(path.name + ".py").exists():
            problem += f" (there is {path}.py)"
    elif path.suffix in (".yaml", ".yml", ".json", ".toml"):
        problem = "but configs are Python files, not YAML, JSON or TOML"
    elif b"\0" in _start(path):
        problem = "which is a binary file"
    if problem:
        raise UserError(f"--config is '{path}', {problem}; {_FIX}.")


def _start(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(4096)
    except OSError as error:
        raise UserError(
            f"--config is '{path}', which cannot be read ({error.strerror}); {_FIX}."
        ) from None


@contextmanager
def _folder_on_path(path: Path) -> Iterator[None]:
    folder = os.fspath(path.absolute().parent)
    sys.path.insert(0, folder)
    try:
        yield
    finally:
        sys.path.remove(folder)


def _run(path: Path) -> ModuleType:
    """Run the file as a module "config_NAME", which is in `sys.modules`."""
    loader = importlib.machinery.SourceFileLoader(f"config_{path.stem}", os.fspath(path))
    spec = importlib.util.spec_from_loader(loader.name, loader)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[loader.name] = module
    loader.exec_module(module)
    return module


def _arguments(get_config: Callable[..., object], file: str, variant: str | None) -> list[str]:
    """The arguments for get_config: a variant that is given, or that the function cannot miss."""
    parameters = [
        p
        for p in inspect.signature(get_config).parameters.values()
        if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD, p.VAR_POSITIONAL)
    ]
    if not parameters and variant:
        raise UserError(
            f"--config asks for the variant '{variant}', but get_config of '{file}' takes no "
            "argument; leave out the variant, or define get_config(variant)."
        )
    if variant:
        return [variant]
    required = parameters and parameters[0].default is inspect.Parameter.empty
    return [""] if required and parameters[0].kind != inspect.Parameter.VAR_POSITIONAL else []


@contextmanager
def _errors_located(path: Path) -> Iterator[None]:
    """Turn whatever the file raises into a UserError with the file, the line and its text."""
    try:
        yield
    except schema.UnknownVariant:
        raise
    except Exception as error:  # a config file is a program: it may raise anything
        place = _place(error, path)
        if isinstance(error, UserError):
            raise UserError(f"{place}: {error}" if place else str(error)) from None
        if sentence := moved_in(place) or _misspelt(place, error):
            raise UserError(f"{place}: {sentence}") from None
        reason = f"{type(error).__name__}: {' '.join(str(_text(error)).split())}"
        raise UserError(f"{place or path}: {reason}; fix this line of the config.") from None


def _check_assignments(config: ConfigDict, path: Path) -> None:
    """Raise UserError, with the line, if the file assigns a key that the schema lacks."""
    known = schema.default_config()
    lines = path.read_text().splitlines()
    for key in schema.flatten(config):
        if schema.has_key(known, key):
            continue
        assignment = re.compile(rf"\.{re.escape(key)}\b[^#=]*=")
        for number, line in enumerate(lines, 1):
            if assignment.search(line):
                place = f"{_shown(os.fspath(path))}, line {number}, `{line.strip()}`"
                raise UserError(f"{place}: {schema.unknown_key(key)}")


def _text(error: Exception) -> object:
    return error.msg if isinstance(error, SyntaxError) else error


def _place(error: Exception, path: Path) -> str:
    """ "FILE, line N, `TEXT`" of the innermost line in the config file's folder; "" without one."""
    if isinstance(error, SyntaxError) and error.filename:
        file, line, text = error.filename, error.lineno or 1, error.text or ""
        return f"{_shown(file)}, line {line}, `{text.strip()}`"
    folder = path.absolute().parent
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        if Path(frame.filename).absolute().parent == folder:
            text = linecache.getline(frame.filename, frame.lineno or 1).strip()
            return f"{_shown(frame.filename)}, line {frame.lineno}, `{text}`"
    return ""


def _shown(file: str) -> str:
    """The path, relative to the working directory where it lies in it."""
    path = Path(file).absolute()
    return os.fspath(path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path)


def _misspelt(place: str, error: Exception) -> str | None:
    """A suggestion for a key that the line of a config names and the schema lacks."""
    if not isinstance(error, (AttributeError, KeyError)):
        return None
    known = schema.default_config()
    for key in re.findall(r"\bconfig\.([\w.]+)", place.partition("`")[2]):
        if not schema.has_key(known, key):
            return str(schema.unknown_key(key))
    return None


def split_overrides(argv: Sequence[str]) -> tuple[list[str], list[tuple[str, str | None]]]:
    """Separate the arguments that change config keys from the others.

    Accepts `--config.KEY=VALUE`, `--config.KEY VALUE` and, for a bool, `--config.KEY` and
    `--noconfig.KEY`. One dash is as good as two.

    Returns:
      (the other arguments, [(key, value), ...]); the value is None where none follows.
    """
    others: list[str] = []
    overrides: list[tuple[str, str | None]] = []
    arguments = iter(enumerate(argv))
    for i, argument in arguments:
        flag, equals, value = argument.partition("=")
        name = flag.lstrip("-")
        if not argument.startswith("-") or not name.startswith(("config.", "noconfig.")):
            others.append(argument)
        elif name.startswith("noconfig."):
            overrides.append((name.removeprefix("noconfig."), "false"))
        elif equals:
            overrides.append((name.removeprefix("config."), value))
        elif i + 1 < len(argv) and not _is_flag(argv[i + 1]):
            overrides.append((name.removeprefix("config."), argv[i + 1]))
            next(arguments)
        else:
            overrides.append((name.removeprefix("config."), None))
    return others, overrides


def _is_flag(argument: str) -> bool:
    """Whether an argument begins with a dash and is not a negative number."""
    return argument.startswith("-") and not argument[1:2].isdigit() and argument[1:2] != "."


def override(config: ConfigDict, key: str, text: str | None) -> None:
    """Set one key of a config to the value of `--config.KEY=VALUE`.

    Args:
      config: changed in place.
      key: such as "optim.lr".
      text: the value as it is written; None where no value was given, which is True for a bool.

    Raises:
      UserError: there is no such key, or the value is not of its type.
    """
    known = schema.flatten(schema.default_config())
    if key not in known:
        raise schema.unknown_key(key, text)
    default = known[key]
    if text is None:
        if not isinstance(default, bool):
            raise UserError(f"--config.{key} has no value; give --config.{key}=VALUE.")
        text = "true"
    try:
        value = _parsed(key, text, default)
    except (ValueError, SyntaxError):
        raise UserError(
            f"config.{key} is '{text}'; it must be {schema.kind_of(default)} such as "
            f"{default if default != () else (1, 2)!r}."
        ) from None
    if not schema.has_key(config, key):
        return  # the config is not of the schema, which `check_keys` reports
    with config.ignore_type():
        config.update_from_flattened_dict({key: value})


def _parsed(key: str, text: str, default: object) -> object:
    """The value of a key, of the type of its default.

    Raises:
      ValueError, SyntaxError: not of that type.
    """
    if isinstance(default, bool):
        if text.lower() not in _TRUE + _FALSE:
            raise ValueError
        return text.lower() in _TRUE
    if isinstance(default, (int, float)):
        return type(default)(text)
    if isinstance(default, tuple):
        if not text:
            return ()
        try:
            value = ast.literal_eval(text)
        except (ValueError, SyntaxError):
            if schema.element_type(key) is not str:
                raise
            value = text  # one text without quotes
        return tuple(value) if isinstance(value, (tuple, list)) else (value,)
    return text
