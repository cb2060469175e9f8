"""config.json of a workdir: writing, reading, and comparing it with the config of a new run."""

import json

from etils import epath
from ml_collections import ConfigDict

from cdt.config import check_keys, default_config, flatten
from cdt.config.old_keys import translated
from cdt.errors import UserError
from cdt.files import atomic
from cdt.workdir.identity import identity, identity_differences

CONFIG_FILE = "config.json"


def check_identity(workdir: epath.Path, config: ConfigDict) -> None:
    """Raise UserError if the workdir has a run with another `cdt.workdir.identity`."""
    if not (workdir / CONFIG_FILE).exists():
        return
    saved = _recorded(workdir)
    known = identity(config)
    differences = identity_differences(config, {k: v for k, v in saved.items() if k in known})
    if differences:
        raise UserError(
            f"The workdir {workdir} has a run with another {', '.join(differences)}; give another "
            "--workdir, or use the config of that run."
        )


def recorded_config(workdir: epath.Path) -> ConfigDict:
    """Return the config of the run in a workdir; keys newer than the run have their defaults.

    Raises:
      UserError: the folder has no config.json, or a damaged one.
    """
    if not (workdir / CONFIG_FILE).exists():
        raise UserError(f"{workdir} has no {CONFIG_FILE}; give the workdir of a run.")
    config = default_config()
    known = flatten(config)
    saved = {key: value for key, value in _recorded(workdir).items() if key in known}
    try:
        config.update_from_flattened_dict(saved)
        check_keys(config)
    except (TypeError, UserError) as error:
        raise _damaged(workdir) from error
    return config


def recorded_class_names(workdir: epath.Path) -> tuple[str, ...]:
    """Return the class names of the run in a workdir in the order of labels; () without names."""
    if not (workdir / CONFIG_FILE).exists():
        return ()
    names = _recorded(workdir).get("data.class_names", ())
    if not isinstance(names, list) and names != ():
        raise _damaged(workdir)
    return tuple(map(str, names))


def record_config(workdir: epath.Path, config: ConfigDict) -> None:
    """Write the config to the workdir, which is created if it does not exist.

    Raises:
      UserError: the workdir cannot be written to.
    """
    try:
        workdir.mkdir(parents=True, exist_ok=True)
        atomic.write(workdir / CONFIG_FILE, json.dumps(flatten(config), indent=1, sort_keys=True))
    except OSError as error:
        raise UserError(
            f"The workdir {workdir} cannot be written to ({error.strerror or error}); give another "
            "--workdir or fix its permissions."
        ) from None


def _recorded(workdir: epath.Path) -> dict[str, object]:
    """Return the flat config in a workdir, with the keys of this version."""
    try:
        saved = json.loads((workdir / CONFIG_FILE).read_text())
    except ValueError:
        raise _damaged(workdir) from None
    if not isinstance(saved, dict):
        raise _damaged(workdir)
    return translated(saved)


def _damaged(workdir: epath.Path) -> UserError:
    return UserError(
        f"{workdir / CONFIG_FILE} is damaged, so the run in this folder cannot be identified; fix "
        "or remove that file."
    )
