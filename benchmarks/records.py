"""What benchmarks measured, as one JSON file: a list of records with what they ran on."""

import json
import os
import platform
import subprocess
from importlib.metadata import version

import jax

_LIBRARIES = ("jax", "flax", "optax", "numpy")


def append(path: str | None, benchmark: str, record: dict) -> None:
    """Adds a record to the JSON list in a local file, which is made if need be; None: nowhere."""
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
    """Device, versions and commit: $COMMIT where that is set, as for a copy without its history."""
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
