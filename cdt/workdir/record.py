"""The folder of a run: made, checked for writability, and never given to a different run."""

import json

from etils import epath
from ml_collections import ConfigDict

from cdt.config import check_keys, default_config, flatten
from cdt.errors import UserError
from cdt.files import atomic
from cdt.old_keys import translated
from cdt.workdir.identity import identity, identity_differences

CONFIG_FILE = "config.json"


def check_identity(workdir: epath.Path, config: ConfigDict) -> None:
    """Raise UserError if the folder holds a run whose `cdt.workdir.identity` differs."""
    if not (workdir / CONFIG_FILE).exists():
        return
    saved = _recorded(workdir)
    known = identity(config)
    differences = identity_differences(config, {k: v for k, v in saved.items() if k in known})
    if differences:
        raise UserError(
            f"The workdir {workdir} holds a run with another {', '.join(differences)}; use another "
            "--workdir, or the config of that run."
        )


def recorded_config(workdir: epath.Path) -> ConfigDict:
    """The config of the run in a folder; keys that are younger than the run have their defaults.

    Raises:
      UserError: the folder holds no run, or what it says of it is damaged.
    """
    if not (workdir / CONFIG_FILE).exists():
        raise UserError(f"{workdir} holds no run: there is no {CONFIG_FILE}; give a run's workdir.")
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
    """Return the class names of the run in a folder, by label; empty where none are recorded."""
    if not (workdir / CONFIG_FILE).exists():
        return ()
    names = _recorded(workdir).get("data.class_names", ())
    if not isinstance(names, list) and names != ():
        raise _damaged(workdir)
    return tuple(map(str, names))


def record_config(workdir: epath.Path, config: ConfigDict) -> None:
    """Make the folder if needed and write the config there.

    Raises:
      UserError: it cannot be written to.
    """
    try:
        workdir.mkdir(parents=True, exist_ok=True)
        atomic.write(workdir / CONFIG_FILE, json.dumps(flatten(config), indent=1, sort_keys=True))
    except OSError as error:
        raise UserError(
            f"The workdir {workdir} cannot be written to ({error.strerror or error}); choose "
            "another --workdir or fix its permissions."
        ) from None


def _recorded(workdir: epath.Path) -> dict[str, object]:
    """The flat config in a folder, with the keys of this version."""
    try:
        saved = json.loads((workdir / CONFIG_FILE).read_text())
    except ValueError:
        raise _damaged(workdir) from None
    if not isinstance(saved, dict):
        raise _damaged(workdir)
    return translated(saved)


def _damaged(workdir: epath.Path) -> UserError:
    return UserError(
        f"{workdir / CONFIG_FILE} is damaged, so it cannot be told whose run this folder holds; "
        "fix or remove that file."
    )
