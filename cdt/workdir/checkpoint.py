"""Checkpoints that are found whole or not used: the only importer of Orbax.

A checkpoint is one folder per step under `workdir/checkpoints`, with one Orbax item per part of
the train state (`params`, `ema`, ...) and an item `meta`, the manifest (see
`cdt.workdir.manifest`).

Orbax restores a flipped bit silently, so every restored leaf is compared with its checksum. Items
are stored as nested dicts; containers without a leaf (optax.EmptyState, None) and arrays without
an element come from the abstract tree, so that any tree is restored with its exact structure.
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

# Seconds of waiting for the storage from which a person is told.
_LONG_WAIT = 5.0

quiet_orbax.silence()


class NotSaved(UserError):
    """A checkpoint could not be written; those before it are intact.

    Attributes:
      what: the sentence without the advice, for a run that goes on.
    """

    def __init__(self, what: str):
        super().__init__(f"{what}: make room or fix the folder, and run the same command again.")
        self.what = what


class Checkpointer:
    """Saves, verifies and restores the checkpoints of one run; every process calls it alike.

    Only `save` and `restore_latest` change the directory: others may read while a run trains.

    Args:
      directory: where the steps are, local or gs://.
      keep: how many of the newest checkpoints stay, >= 1.
      keep_every: those at multiples of so many steps stay as well.
    """

    def __init__(self, directory: epath.PathLike, *, keep: int, keep_every: int | None = None):
        path = epath.Path(directory)
        self._directory = path if path.is_absolute() else path.resolve()
        self._keep, self._keep_every = keep, keep_every
        self._manager: ocp.CheckpointManager | None = None
        self._saving: int | None = None  # the last step that was begun
        self._newest: int | None = None  # step that is known to be saved
        self._identity: tuple[int, int] | None = None  # of the directory that is saved to

    def save(self, step: int, items: Mapping[str, PyTree], meta: Mapping[str, Any]) -> None:
        """Start to save; the arrays may be donated as soon as this returns.

        Waits for the arrays, their checksums, their copy to the host and the save before this one,
        which it tells where that takes long; the files are written in the background. A step saved
        already is left as it is.

        Args:
          step: steps done, greater than every step saved before.
          items: {name: tree of arrays}; the name "meta" is taken.
          meta: JSON object, returned as it is by the restoring functions.

        Raises:
          RuntimeError: newer checkpoints exist, so that this one would not be the one found.
          NotSaved: this save could not be written, or the one before it in the background, of
            which `wait` would have told. Later ones may be tried.
        """
        began = time.monotonic()
        self.wait()
        waited = time.monotonic() - began
        if waited > _LONG_WAIT and jax.process_index() == 0:
            _LOG.warning(
                f"The run has waited {waited:.0f} s for the checkpoint of step {self._saving} to "
                "be written: the storage is slower than config.checkpoint.every asks for."
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
                f"Step {step} was not saved in {self._directory}, which holds step "
                f"{manager.latest_step()} already."
            )

    def restore_latest(
        self, abstract_items: Mapping[str, PyTree]
    ) -> tuple[int, dict[str, PyTree], dict[str, Any]] | None:
        """Restore the newest checkpoint that is whole, for a run that will save on.

        Newer ones that are damaged are renamed to corrupt-<step>-<time>, with one log line each,
        or Orbax would refuse to save until training has passed their step.

        Args:
          abstract_items: {name: tree of jax.ShapeDtypeStruct}, with the shardings that the
            arrays get; without a sharding an array comes to the first device.

        Returns:
          (step, items, meta), or None where nothing has been saved.

        Raises:
          UserError: the checkpoint is of another model or a newer program, or all are damaged;
            then nothing is renamed.
        """
        found = self._newest_good(lambda step: self._restore(step, abstract_items), set_aside=True)
        return found and (found[0], *found[1])

    def restore_items(
        self, abstract_items: Mapping[str, PyTree], step: int | None = None
    ) -> tuple[int, dict[str, PyTree], dict[str, Any]]:
        """As `restore_latest`, for any part of the items (such as "ema"); change no file.

        Args:
          step: which checkpoint; the newest that is whole by default.

        Raises:
          UserError: there is no such checkpoint, it is damaged, or it does not fit.
        """
        found = self._newest_good(lambda step: self._restore(step, abstract_items), step)
        if found is None:
            raise self._nothing()
        return (found[0], *found[1])

    def read_meta(self, step: int | None = None) -> dict[str, Any] | None:
        """What `save` was given as `meta`, from `step` or from the newest where it is whole.

        None where nothing has been saved. Raises UserError as `restore_items` does.
        """
        found = self._newest_good(self._manifest, step)
        return found and found[1]["meta"]

    def latest_step(self) -> int | None:
        """The newest step saved completely, damaged or not; None where there is none."""
        self.wait()
        return max(ocp.utils.checkpoint_steps(self._directory), default=None)

    def wait(self) -> None:
        """Return when everything is written; raise NotSaved where something could not be."""
        if self._manager is not None:
            self._write(self._manager.wait_until_finished)
            self._newest = self._saving

    def close(self) -> None:
        """Wait for Orbax's threads and free them; the next `save` starts them again.

        Logs what could not be written and raises nothing, as it may be called for an exception.
        """
        if reason := self._drop_manager():
            _LOG.warning(self._not_saved(reason))

    def _drop_manager(self) -> str | None:
        """Return why the last save failed, unless that was told before."""
        manager, self._manager = self._manager, None
        try:
            if manager is not None:
                manager.close()
        except (OSError, ValueError) as error:
            return _reason(error)
        return None

    def _write(self, action: Callable[[], T]) -> T:
        """`action`, or NotSaved on all processes where the storage refused it to one of them."""
        result: T | None = None
        error: OSError | ValueError | None = None
        try:
            result = action()
        # TensorStore tells of a full disk by a ValueError.
        except (OSError, ValueError) as caught:
            error = caught
        if reasons := [text for text in gather(error and _reason(error)) if text]:
            self._drop_manager()  # as Orbax keeps the failed step in mind
            gc.collect()  # what it has abandoned is not to come up later
            if jax.process_index() == 0:
                self._remove_partial()
            raise self._not_saved(reasons[0]) from error
        return cast(T, result)

    def _not_saved(self, reason: str) -> NotSaved:
        return NotSaved(
            f"The checkpoint of step {self._saving} could not be written to {self._directory} "
            f"({reason}); those before it are intact"
        )

    def _check_directory(self) -> None:
        """On process 0: makes the directory, but not in place of one that has gone, as when a mount
        is lost: what lies under the mount is another disk."""
        if jax.process_index() > 0:
            return
        if self._identity is None and self._newest is None:
            self._directory.mkdir(parents=True, exist_ok=True)
        identity = _identity(self._directory)
        known = self._newest is not None and (self._directory / str(self._newest)).exists()
        if self._identity not in (None, identity) and not known:
            raise FileNotFoundError(errno.ENOENT, "The folder is no longer the one of this run")
        self._identity = identity

    def _remove_partial(self) -> None:
        """What the failed save has written fills the disk; what stays, `_open` removes."""
        # Again and again, as TensorStore's threads may still be writing there, and make it anew.
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
                cleanup_tmp_directories=True,  # of saves that were killed
                save_root_metadata=False,
                # Else Orbax waits five minutes for a folder that could not be made.
                async_options=ocp.AsyncOptions(create_directories_asynchronously=False),
            )
            self._manager = ocp.CheckpointManager(self._directory, options=options)
        return self._manager

    def _nothing(self) -> UserError:
        where = self._directory
        return UserError(f"There is no checkpoint in {where}: train first, or fix --workdir.")

    def steps(self) -> list[int]:
        """All steps saved completely, damaged or not, the newest first; as process 0 sees them: on
        a network's file system another may see the newest later."""
        self.wait()
        steps = gather(list(ocp.utils.checkpoint_steps(self._directory)))[0]
        self._newest = max(steps, default=None)
        return sorted(steps, reverse=True)

    def _newest_good(
        self, read: Callable[[int], T], only: int | None = None, *, set_aside: bool = False
    ) -> tuple[int, T] | None:
        """The newest step that `read` finds whole, and what it read; None if nothing was saved."""
        steps = self.steps()
        if only is not None and only not in steps:
            raise UserError(
                f"There is no checkpoint of step {only} in {self._directory}; give one of those it "
                f"holds: {', '.join(map(str, steps)) or 'none'}."
            )
        damaged: dict[int, str] = {}
        for step in steps if only is None else [only]:
            try:
                result = read(step)
            except Damaged as error:
                if only is not None:
                    raise UserError(
                        f"The checkpoint of step {step} in {self._directory} is damaged ({error}): "
                        "bring it back from a copy, or rename its folder to go on without it."
                    ) from error
                damaged[step] = str(error)
                continue
            # Renamed only now: where no step can be read, the storage may be away for a moment.
            for bad, reason in damaged.items():
                fate = f"renamed to {self._set_aside(bad)}" if set_aside else "passed over"
                if jax.process_index() == 0:
                    _LOG.warning(
                        f"The checkpoint of step {bad} in {self._directory} is damaged ({reason}); "
                        f"it is {fate} and step {step} is used."
                    )
            return step, result
        remains = [f"step {step}: {reason}" for step, reason in damaged.items()]
        remains += sorted(path.name for path in self._directory.glob("corrupt-*"))
        if remains:
            raise UserError(
                f"No good checkpoint is left in {self._directory} ({'; '.join(remains)}): bring "
                "one back from a copy, or start from nothing with another --workdir."
            )
        return None

    def _set_aside(self, step: int) -> str:
        """Rename a step so that Orbax no longer sees it, and return the new name."""
        name = f"corrupt-{step}-{datetime.datetime.now(datetime.UTC):%Y%m%dT%H%M%S.%f}"
        self.close()  # as Orbax keeps a list of the steps to save on
        reason = None
        if jax.process_index() == 0:
            try:
                (self._directory / str(step)).rename(self._directory / name)
            except OSError as error:
                reason = _reason(error)
        if reason := gather(reason)[0]:  # none goes on before it has happened
            raise UserError(
                f"The checkpoint of step {step} in {self._directory} is damaged and cannot be "
                f"renamed ({reason}): fix the folder, and run the same command again."
            )
        return name

    def _manifest(self, step: int) -> dict[str, Any]:
        handler, args = ocp.JsonCheckpointHandler(), ocp.args.JsonRestore()
        manifest = self._read(step, lambda folder: handler.restore(folder / "meta", args=args))
        check_manifest(manifest)
        if manifest["schema"] > CHECKPOINT_SCHEMA:
            raise UserError(
                f"The checkpoint of step {step} in {self._directory} has schema "
                f"{manifest['schema']} and this program knows {CHECKPOINT_SCHEMA} at most: use a "
                "newer cdt."
            )
        return manifest

    def _restore(
        self, step: int, abstract_items: Mapping[str, PyTree]
    ) -> tuple[dict[str, PyTree], dict[str, Any]]:
        manifest = self._manifest(step)
        if mismatch := first_mismatch(manifest, abstract_items):
            raise UserError(
                f"The checkpoint of step {step} in {self._directory} does not fit: {mismatch}; "
                "use the config that it was saved with, or another --workdir."
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
        """`read` of the step's folder on all processes, or Damaged on all of them.

        `read` calls Orbax's handlers and not its manager, which waits for all processes after
        reading: for ever, when a file that one of them needs is damaged.
        """
        result: T | None = None
        reason = ""
        try:
            result = read(self._directory / str(step))
        except (jax.errors.JaxRuntimeError, MemoryError):
            raise  # too little memory is no fault of the file
        except Exception as error:  # damage shows as anything from KeyError to UnicodeError
            reason = f"{type(error).__name__}: {str(error).partition(chr(10))[0][:100]}"
        if reason:
            gc.collect()
        if others := [text for text in gather(reason) if text]:
            raise Damaged(reason or others[0])
        return cast(T, result)


def _identity(directory: epath.Path) -> tuple[int, int]:
    """Return device and inode of a directory; (0, 0) in a bucket, which is never lost in part."""
    if "://" in os.fspath(directory):
        return 0, 0
    found = os.stat(directory)
    return found.st_dev, found.st_ino


def _reason(error: OSError | ValueError) -> str:
    """What the storage says, in a few words where it gives a number."""
    if code := re.search(r"os_error_code='(\d+)'", str(error)):
        return os.strerror(int(code[1]))
    return getattr(error, "strerror", None) or str(error).partition("\n")[0][:200]
