"""The results of benchmarks in one JSON file: a list of records, each with its environment."""

import json
import os
import platform
import subprocess
from importlib.metadata import version

import jax

_LIBRARIES = ("jax", "flax", "optax", "numpy")


def append(path: str | None, benchmark: str, record: dict) -> None:
    """Append a record to the JSON list in a local file.

    Args:
      path: created if it does not exist; None: nothing is written.
      benchmark: its name.
      record: JSON object.
    """
    if path is None:
        return
    records = []
    if os.path.exists(path):
        with open(path) as file:
            records = json.load(file)
    records.append({"benchmark": benchmark, **record, "environment": environment()})
    with open(path, "w") as file:
        json.dump(records, file, indent=1)


def environment() -> dict[str, str | int]:
    """Return device, versions and commit; $COMMIT, if set, replaces that of the git repository."""
    commit = (
        os.environ.get("COMMIT")
        or subprocess.run(
            ["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True
        ).stdout.strip()
    )
    return {
        "device": jax.devices()[0].device_kind,
        "num_devices": jax.device_count(),
        "xla_flags": os.environ.get("XLA_FLAGS", ""),
        "python": platform.python_version(),
        "commit": commit or "unknown",
        **{name: version(name) for name in _LIBRARIES},
    }
