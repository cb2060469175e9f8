"""The manifest of a checkpoint: a JSON object to detect damage and a wrong config.

    schema      int, version of the format; schemas newer than CHECKPOINT_SCHEMA are refused
    versions    `library_versions` at the time of saving
    types       {item: {leaf path: "float32[3,4]"}}
    checksums   {item: {leaf path: uint32}}, see `cdt.workdir.leaves.leaf_checksums`
    meta        JSON object of the caller: config, data position, ...
    crc32       of all of the above as compact JSON with sorted keys

An item is a part of the train state that can be restored alone, such as `params`.
"""

import importlib.metadata
import json
import platform
import zlib
from collections.abc import Mapping
from typing import Any

import jax

from cdt import __version__
from cdt.workdir.leaves import leaf_checksums, leaf_types

PyTree = Any

CHECKPOINT_SCHEMA = 1

_PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy")


class Damaged(Exception):
    """The content of a checkpoint is not what was written."""


def library_versions() -> dict[str, str]:
    """Return {name: version} of the packages that affect results, of cdt and of Python."""
    packages = {package: importlib.metadata.version(package) for package in _PACKAGES}
    return packages | {"cdt": __version__, "Python": platform.python_version()}


def make_manifest(items: Mapping[str, PyTree], meta: Mapping[str, Any]) -> dict[str, Any]:
    """Return the manifest of items to save; waits for their checksums.

    Args:
      items: {item: tree of arrays}.
      meta: JSON object.
    """
    manifest = {
        "schema": CHECKPOINT_SCHEMA,
        "versions": library_versions(),
        "types": {item: leaf_types(tree) for item, tree in items.items()},
        "checksums": _checksums(items),
        "meta": meta,
    }
    manifest = json.loads(json.dumps(manifest))  # tuples become lists, as when it is read
    return manifest | {"crc32": _crc32(manifest)}


def check_manifest(manifest: Any) -> None:
    """Raise Damaged if the manifest does not match its own checksum."""
    if not isinstance(manifest, dict):
        raise Damaged("its manifest is not a JSON object")
    content = {name: value for name, value in manifest.items() if name != "crc32"}
    if manifest.get("crc32") != _crc32(content):
        raise Damaged("its manifest does not match its checksum")


def check_items(manifest: Mapping[str, Any], items: Mapping[str, PyTree]) -> None:
    """Raise Damaged, on all processes, if the checksum of an array differs from the saved one."""
    for item, checksums in _checksums(items).items():
        for path, checksum in checksums.items():
            if checksum != manifest["checksums"][item][path]:
                raise Damaged(f"{item}/{path} does not match its checksum")


def first_mismatch(manifest: Mapping[str, Any], abstract: Mapping[str, PyTree]) -> str | None:
    """Return the first difference in dtype, shape or structure as text, or None.

    Args:
      manifest: already checked by `check_manifest`.
      abstract: {item: tree of jax.ShapeDtypeStruct}; other items of the manifest are ignored.
    """
    for item, tree in abstract.items():
        if item not in manifest["types"]:
            return f"it has no item '{item}', only {', '.join(manifest['types'])}"
        saved, wanted = manifest["types"][item], leaf_types(tree)
        for path in [*wanted, *saved]:
            there, here = saved.get(path, "missing"), wanted.get(path, "missing")
            if there != here:
                return f"{item}/{path} is {there} in the checkpoint and {here} in this run"
    return None


def _checksums(items: Mapping[str, PyTree]) -> dict[str, dict[str, int]]:
    on_device = {item: leaf_checksums(tree) for item, tree in items.items()}
    return jax.tree.map(int, jax.device_get(on_device))


def _crc32(content: Mapping[str, Any]) -> int:
    return zlib.crc32(json.dumps(content, sort_keys=True, separators=(",", ":")).encode())
