"""Saving, verifying and restoring of checkpoints; the only module that imports Orbax.

A checkpoint is a folder of one step in `workdir/checkpoints`. It has one Orbax item for each part
of the train state (`params`, `ema`, ...) and the item `meta`, the manifest (see
`cdt.workdir.manifest`).

Orbax does not detect a flipped bit, so every restored leaf is compared with its checksum. Items are
stored as nested dicts. Containers without leaves (optax.EmptyState, None) and empty arrays are not
stored: they come from the abstract tree, so every tree is restored with its exact structure.
"""

import contextlib
import datetime
import errno
import gc
import logging
import os
import re
import time
from collections.abc import Callable, Mapping
from typing import Any, TypeVar, cast

import jax
import orbax.checkpoint as ocp
from etils import epath

from cdt.devices.agreement import gather
from cdt.errors import UserError
from cdt.workdir import quiet_orbax
from cdt.workdir.leaves import from_nested, placed, to_nested
from cdt.workdir.manifest import (
    CHECKPOINT_SCHEMA,
    Damaged,
    check_items,
    check_manifest,
    first_mismatch,
    make_manifest,
)

PyTree = Any
T = TypeVar("T")

_LOG = logging.getLogger(__name__)

# Warn when the run waits longer than this for the storage, in seconds.
_LONG_WAIT = 5.0

quiet_orbax.silence()


class NotSaved(UserError):
    """A checkpoint could not be written; earlier checkpoints are intact.

    Attributes:
      what: the message without the fix, for a run that continues.
    """

    def __init__(self, what: str):
        super().__init__(
            f"{what}; free disk space or fix the folder, then run the same command again."
        )
        self.what = what


class Checkpointer:
    """The checkpoints of one run; every process must make the same calls.

    Only `save` and `restore_latest` change the directory, so other programs may read it while a run
    trains.

    Args:
      directory: folder of the checkpoints, local or gs://.
      keep: number of the newest checkpoints to keep, >= 1.
      keep_every: also keep the checkpoints at multiples of this number of steps.
    """

    def __init__(self, directory: epath.PathLike, *, keep: int, keep_every: int | None = None):
        path = epath.Path(directory)
        self._directory = path if path.is_absolute() else path.resolve()
        self._keep, self._keep_every = keep, keep_every
        self._manager: ocp.CheckpointManager | None = None
        self._saving: int | None = None  # step of the last save that was started
        self._newest: int | None = None  # newest step that is known to be complete
        self._identity: tuple[int, int] | None = None  # of the directory, see `_identity`

    def save(self, step: int, items: Mapping[str, PyTree], meta: Mapping[str, Any]) -> None:
        """Start a save; the arrays may be donated as soon as this returns.

        It waits for the previous save (and warns if this takes long), for the arrays and checksums,
        and for the copy to the host. The files are written in the background. A step that is
        already saved is not saved again.

        Args:
          step: number of finished steps, greater than every saved step.
          items: {name: tree of arrays}; the name "meta" is reserved.
          meta: JSON object; the restoring functions return it unchanged.

        Raises:
          RuntimeError: a newer checkpoint exists, so this one would never be restored.
          NotSaved: this save or the previous one could not be written. A later save may succeed.
        """
        began = time.monotonic()
        self.wait()
        waited = time.monotonic() - began
        if waited > _LONG_WAIT and jax.process_index() == 0:
            _LOG.warning(
                f"Training waited {waited:.0f} s until the checkpoint of step {self._saving} was "
                "written. The storage is too slow for config.checkpoint.every; increase it."
            )
        self._saving = step
        stored = {name: to_nested(tree) for name, tree in items.items()}
        saves = {name: ocp.args.StandardSave(tree) for name, tree in stored.items() if tree}
        saves["meta"] = ocp.args.JsonSave(make_manifest(items, meta))
        self._write(self._check_directory)
        manager = self._write(self._open)
        if step in manager.all_steps():
            return
        if not self._write(lambda: manager.save(step, args=ocp.args.Composite(**saves))):
            raise RuntimeError(
                f"Step {step} was not saved: {self._directory} already has step "
                f"{manager.latest_step()}."
            )

    def restore_latest(
        self, abstract_items: Mapping[str, PyTree]
    ) -> tuple[int, dict[str, PyTree], dict[str, Any]] | None:
        """Restore the newest intact checkpoint, for a run that continues to save.

        Newer damaged checkpoints are renamed to corrupt-<step>-<time>, with one log line each.
        Otherwise Orbax would refuse to save until training has passed their step.

        Args:
          abstract_items: {name: tree of jax.ShapeDtypeStruct} with the shardings of the restored
            arrays; an array without a sharding is placed on the first device.

        Returns:
          (step, items, meta), or None if there is no checkpoint.

        Raises:
          UserError: the checkpoint is of another model or of a newer version of cdt, or all are
            damaged. Nothing is renamed then.
        """
        found = self._newest_good(lambda step: self._restore(step, abstract_items), set_aside=True)
        return found and (found[0], *found[1])

    def restore_items(
        self, abstract_items: Mapping[str, PyTree], step: int | None = None
    ) -> tuple[int, dict[str, PyTree], dict[str, Any]]:
        """Restore some items (such as "ema") and change no file.

        Args:
          abstract_items: see `restore_latest`.
          step: of the checkpoint; None: the newest intact one.

        Returns:
          (step, items, meta).

        Raises:
          UserError: there is no such checkpoint, it is damaged, or it does not match.
        """
        found = self._newest_good(lambda step: self._restore(step, abstract_items), step)
        if found is None:
            raise self._nothing()
        return (found[0], *found[1])

    def read_meta(self, step: int | None = None) -> dict[str, Any] | None:
        """Return the `meta` that `save` got, or None if there is no checkpoint.

        Args:
          step: of the checkpoint; None: the newest with an intact manifest.

        Raises:
          UserError: see `restore_items`.
        """
        found = self._newest_good(self._manifest, step)
        return found and found[1]["meta"]

    def latest_step(self) -> int | None:
        """Return the newest complete step, damaged or not, or None if there is none."""
        self.wait()
        return max(ocp.utils.checkpoint_steps(self._directory), default=None)

    def wait(self) -> None:
        """Wait until the last save is written.

        Raises:
          NotSaved: it could not be written.
        """
        if self._manager is not None:
            self._write(self._manager.wait_until_finished)
            self._newest = self._saving

    def close(self) -> None:
        """Wait for Orbax's threads and end them; the next `save` starts them again.

        A failed save is logged. Nothing is raised, because an exception may be in progress.
        """
        if reason := self._drop_manager():
            _LOG.warning(self._not_saved(reason))

    def _drop_manager(self) -> str | None:
        """Close Orbax's manager; return why the last save failed, unless already reported."""
        manager, self._manager = self._manager, None
        try:
            if manager is not None:
                manager.close()
        except (OSError, ValueError) as error:
            return _reason(error)
        return None

    def _write(self, action: Callable[[], T]) -> T:
        """Return the result of `action`; if it fails on one process, raise NotSaved on all."""
        result: T | None = None
        error: OSError | ValueError | None = None
        try:
            result = action()
        # TensorStore raises ValueError on a full disk.
        except (OSError, ValueError) as caught:
            error = caught
        if reasons := [text for text in gather(error and _reason(error)) if text]:
            self._drop_manager()  # Orbax would remember the failed step
            gc.collect()  # of abandoned coroutines, which would print errors later
            if jax.process_index() == 0:
                self._remove_partial()
            raise self._not_saved(reasons[0]) from error
        return cast(T, result)

    def _not_saved(self, reason: str) -> NotSaved:
        return NotSaved(
            f"The checkpoint of step {self._saving} could not be written to {self._directory} "
            f"({reason}); earlier checkpoints are intact"
        )

    def _check_directory(self) -> None:
        """On process 0, create the directory, or check that it is still the same.

        It differs when a mount was lost. A new directory at that place would be on another disk.
        """
        if jax.process_index() > 0:
            return
        if self._identity is None and self._newest is None:
            self._directory.mkdir(parents=True, exist_ok=True)
        identity = _identity(self._directory)
        known = self._newest is not None and (self._directory / str(self._newest)).exists()
        if self._identity not in (None, identity) and not known:
            raise FileNotFoundError(errno.ENOENT, "The folder was replaced or its disk unmounted")
        self._identity = identity

    def _remove_partial(self) -> None:
        """Remove the files of a failed save to free disk space; `_open` removes the rest."""
        # Several times: TensorStore's threads may still write and create the folder again.
        for seconds in (0.0, 0.1, 1.0):
            time.sleep(seconds)
            with contextlib.suppress(OSError):
                for partial in self._directory.glob(f"{self._saving}.orbax-checkpoint-tmp*"):
                    partial.rmtree()

    def _open(self) -> ocp.CheckpointManager:
        if self._manager is None:
            options = ocp.CheckpointManagerOptions(
                max_to_keep=self._keep,
                keep_period=self._keep_every,
                create=False,
                cleanup_tmp_directories=True,  # of interrupted saves
                save_root_metadata=False,
                # Otherwise Orbax waits five minutes for a folder that could not be created.
                async_options=ocp.AsyncOptions(create_directories_asynchronously=False),
            )
            self._manager = ocp.CheckpointManager(self._directory, options=options)
        return self._manager

    def _nothing(self) -> UserError:
        return UserError(
            f"There is no checkpoint in {self._directory}; train first, or fix --workdir."
        )

    def steps(self) -> list[int]:
        """Return all complete steps, damaged or not, the newest first.

        All processes get the list of process 0: on a network file system, others may see the newest
        step later.
        """
        self.wait()
        steps = gather(list(ocp.utils.checkpoint_steps(self._directory)))[0]
        self._newest = max(steps, default=None)
        return sorted(steps, reverse=True)

    def _newest_good(
        self, read: Callable[[int], T], only: int | None = None, *, set_aside: bool = False
    ) -> tuple[int, T] | None:
        """Return the newest intact step and the result of `read`, or None without checkpoints.

        Args:
          read: function of a step; raises Damaged.
          only: read this step alone.
          set_aside: rename the newer damaged checkpoints.
        """
        steps = self.steps()
        if only is not None and only not in steps:
            raise UserError(
                f"There is no checkpoint of step {only} in {self._directory}; it has the steps "
                f"{', '.join(map(str, steps)) or '(none)'}."
            )
        damaged: dict[int, str] = {}
        for step in steps if only is None else [only]:
            try:
                result = read(step)
            except Damaged as error:
                if only is not None:
                    raise UserError(
                        f"The checkpoint of step {step} in {self._directory} is damaged ({error}); "
                        "restore its folder from a backup, or rename it to continue without it."
                    ) from error
                damaged[step] = str(error)
                continue
            # Only rename once one step can be read: otherwise the storage may be unavailable.
            for bad, reason in damaged.items():
                action = f"renamed to {self._set_aside(bad)}" if set_aside else "skipped"
                if jax.process_index() == 0:
                    _LOG.warning(
                        f"The checkpoint of step {bad} in {self._directory} is damaged ({reason}). "
                        f"It is {action}; step {step} is used."
                    )
            return step, result
        remains = [f"step {step}: {reason}" for step, reason in damaged.items()]
        remains += sorted(path.name for path in self._directory.glob("corrupt-*"))
        if remains:
            raise UserError(
                f"{self._directory} has no intact checkpoint ({'; '.join(remains)}); restore one "
                "from a backup, or start from scratch with another --workdir."
            )
        return None

    def _set_aside(self, step: int) -> str:
        """Rename the folder of a step so that Orbax ignores it, and return the new name."""
        name = f"corrupt-{step}-{datetime.datetime.now(datetime.UTC):%Y%m%dT%H%M%S.%f}"
        self.close()  # Orbax keeps a list of the steps
        reason = None
        if jax.process_index() == 0:
            try:
                (self._directory / str(step)).rename(self._directory / name)
            except OSError as error:
                reason = _reason(error)
        if reason := gather(reason)[0]:  # all processes wait for the rename
            raise UserError(
                f"The checkpoint of step {step} in {self._directory} is damaged and cannot be "
                f"renamed ({reason}); fix the folder, then run the same command again."
            )
        return name

    def _manifest(self, step: int) -> dict[str, Any]:
        handler, args = ocp.JsonCheckpointHandler(), ocp.args.JsonRestore()
        manifest = self._read(step, lambda folder: handler.restore(folder / "meta", args=args))
        check_manifest(manifest)
        if manifest["schema"] > CHECKPOINT_SCHEMA:
            raise UserError(
                f"The checkpoint of step {step} in {self._directory} has schema "
                f"{manifest['schema']}, but this version of cdt reads schemas up to "
                f"{CHECKPOINT_SCHEMA}; install a newer cdt."
            )
        return manifest

    def _restore(
        self, step: int, abstract_items: Mapping[str, PyTree]
    ) -> tuple[dict[str, PyTree], dict[str, Any]]:
        manifest = self._manifest(step)
        if mismatch := first_mismatch(manifest, abstract_items):
            raise UserError(
                f"The checkpoint of step {step} in {self._directory} does not match the config: "
                f"{mismatch}; use the config of that run, or another --workdir."
            )
        stored = {name: to_nested(placed(tree)) for name, tree in abstract_items.items()}
        handler, args = ocp.StandardCheckpointHandler(), ocp.args.StandardRestore
        restored = self._read(
            step,
            lambda folder: {
                name: handler.restore(folder / name, args=args(tree))
                for name, tree in stored.items()
                if tree
            },
        )
        items = {
            name: from_nested(restored.get(name, {}), tree) for name, tree in abstract_items.items()
        }
        check_items(manifest, items)
        return items, manifest["meta"]

    def _read(self, step: int, read: Callable[[epath.Path], T]) -> T:
        """Return `read(folder of the step)`; if it fails on one process, raise Damaged on all.

        `read` must use Orbax's handlers. Its manager waits for all processes after reading, which
        would hang if a file of one process is damaged.
        """
        result: T | None = None
        reason = ""
        try:
            result = read(self._directory / str(step))
        except (jax.errors.JaxRuntimeError, MemoryError):
            raise  # out of memory: the file may be intact
        except Exception as error:  # damaged files raise errors of any type
            reason = f"{type(error).__name__}: {str(error).partition(chr(10))[0][:100]}"
        if reason:
            gc.collect()
        if others := [text for text in gather(reason) if text]:
            raise Damaged(reason or others[0])
        return cast(T, result)


def _identity(directory: epath.Path) -> tuple[int, int]:
    """Return the device and inode of a directory; (0, 0) for a bucket, which has no mount."""
    if "://" in os.fspath(directory):
        return 0, 0
    found = os.stat(directory)
    return found.st_dev, found.st_ino


def _reason(error: OSError | ValueError) -> str:
    """Return a short description of an error of the storage."""
    if code := re.search(r"os_error_code='(\d+)'", str(error)):
        return os.strerror(int(code[1]))
    return getattr(error, "strerror", None) or str(error).partition("\n")[0][:200]
