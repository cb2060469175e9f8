"""The folder of a run: made, checked for writability, and never given to a different run."""

import json

from etils import epath
from ml_collections import ConfigDict

from cdt import atomic
from cdt.config import flatten, identity, identity_differences
from cdt.errors import UserError

CONFIG_FILE = "config.json"


def check_identity(workdir: epath.Path, config: ConfigDict) -> None:
    """Raises UserError if the folder holds a run whose identity (see `cdt.config.identity`) is not
    this config's."""
    recorded = workdir / CONFIG_FILE
    if not recorded.exists():
        return
    try:
        saved = json.loads(recorded.read_text())
    except ValueError:
        raise UserError(
            f"{recorded} is damaged, so it cannot be told whose run this folder holds; mend or "
            "remove that file."
        ) from None
    known = identity(config)
    differences = identity_differences(config, {k: v for k, v in saved.items() if k in known})
    if differences:
        raise UserError(
            f"The workdir {workdir} holds a run with another {', '.join(differences)}; use another "
            "--workdir, or the config of that run."
        )


def record_config(workdir: epath.Path, config: ConfigDict) -> None:
    """Makes the folder if needed and writes the config there.

    Raises:
      UserError: it cannot be written to.
    """
    try:
        workdir.mkdir(parents=True, exist_ok=True)
        atomic.write(workdir / CONFIG_FILE, json.dumps(flatten(config), indent=1, sort_keys=True))
    except OSError as error:
        raise UserError(
            f"The workdir {workdir} cannot be written to ({error.strerror or error}); choose "
            "another --workdir or mend its permissions."
        ) from None
