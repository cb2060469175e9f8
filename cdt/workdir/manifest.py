"""What a checkpoint says about itself: a JSON object that lets damage and mistakes be found.

    schema      int, format of the checkpoint; a newer one than this program knows is refused
    versions    see `library_versions`, at the time of saving
    types       {item: {leaf path: "float32[3,4]"}}
    checksums   {item: {leaf path: uint32}}, see `cdt.workdir.leaves.leaf_checksums`
    meta        what the caller wants kept: config, data position, ...
    crc32       of all of the above as compact JSON with sorted keys

An item is a part of the train state, such as its params, which can be restored alone.
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
    """What was read is not what was written."""


def library_versions() -> dict[str, str]:
    """{name: version} of what the numbers of a run depend on: packages, cdt and Python."""
    packages = {package: importlib.metadata.version(package) for package in _PACKAGES}
    return packages | {"cdt": __version__, "Python": platform.python_version()}


def make_manifest(items: Mapping[str, PyTree], meta: Mapping[str, Any]) -> dict[str, Any]:
    """The manifest of items that are about to be saved; waits for their checksums.

    Args:
      items: {item: tree of arrays}.
      meta: any JSON object.
    """
    manifest = {
        "schema": CHECKPOINT_SCHEMA,
        "versions": library_versions(),
        "types": {item: leaf_types(tree) for item, tree in items.items()},
        "checksums": _checksums(items),
        "meta": meta,
    }
    manifest = json.loads(json.dumps(manifest))  # as it will be read: tuples become lists
    return manifest | {"crc32": _crc32(manifest)}


def check_manifest(manifest: Any) -> None:
    """Raise Damaged unless this is what `make_manifest` returned."""
    if not isinstance(manifest, dict):
        raise Damaged("its manifest is no JSON object")
    content = {name: value for name, value in manifest.items() if name != "crc32"}
    if manifest.get("crc32") != _crc32(content):
        raise Damaged("its manifest does not match its checksum")


def check_items(manifest: Mapping[str, Any], items: Mapping[str, PyTree]) -> None:
    """Raise Damaged, on all processes alike, unless every array is the one that was saved."""
    for item, checksums in _checksums(items).items():
        for path, checksum in checksums.items():
            if checksum != manifest["checksums"][item][path]:
                raise Damaged(f"{item}/{path} does not match its checksum")


def first_mismatch(manifest: Mapping[str, Any], abstract: Mapping[str, PyTree]) -> str | None:
    """The first difference in type, shape or structure from what is wanted, in words.

    Args:
      manifest: a checked one.
      abstract: {item: tree of jax.ShapeDtypeStruct}; other items of the manifest do not matter.
    """
    for item, tree in abstract.items():
        if item not in manifest["types"]:
            return f"it holds no '{item}' but {', '.join(manifest['types'])}"
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
