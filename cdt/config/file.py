"""Loading of a config file."""

import importlib.util
import inspect
import linecache
import os
import re
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType

from ml_collections import ConfigDict, FrozenConfigDict

from cdt.config.check import kind_of
from cdt.config.old_keys import moved_in
from cdt.config.schema import default_config, flatten, has_key
from cdt.config.suggestions import unknown_key
from cdt.config.variant import UnknownVariant
from cdt.errors import UserError

_FIX = "give a Python file with a function get_config(variant), such as configs/digits.py"


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
        returned = "None" if config is None else kind_of(config)
        raise UserError(
            f"get_config of '{file}' returns {returned}; it must return the ConfigDict that it got "
            "from cdt.config.default_config()."
        )
    _check_assignments(config, path)
    return config.lock()


def _shipped(path: Path) -> Path:
    """The installed configs/NAME.py where the working directory has none."""
    installed = Path(__file__).parents[1] / path
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
    except UnknownVariant:
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
    known = default_config()
    lines = path.read_text().splitlines()
    for key in flatten(config):
        if has_key(known, key):
            continue
        assignment = re.compile(rf"\.{re.escape(key)}\b[^#=]*=")
        for number, line in enumerate(lines, 1):
            if assignment.search(line):
                place = f"{_shown(os.fspath(path))}, line {number}, `{line.strip()}`"
                raise UserError(f"{place}: {unknown_key(key)}")


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
    known = default_config()
    for key in re.findall(r"\bconfig\.([\w.]+)", place.partition("`")[2]):
        if not has_key(known, key):
            return str(unknown_key(key))
    return None
