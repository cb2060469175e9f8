"""Checkpoints that are found whole or not used: the only importer of Orbax.

A checkpoint is one folder per step under `workdir/checkpoints`, with one Orbax item per part of
the train state (`params`, `ema`, ...) and an item `meta`, the manifest (see `cdt.manifest`).

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
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeVar

import jax
import orbax.checkpoint as ocp
from etils import epath

from cdt.agreement import gather
from cdt.errors import UserError
from cdt.leaves import from_nested, placed, to_nested
from cdt.manifest import (
    SCHEMA,
    Damaged,
    check_items,
    check_manifest,
    first_mismatch,
    make_manifest,
)

PyTree = Any
T = TypeVar("T")

_LOG = logging.getLogger(__name__)

# Orbax tells each save in a dozen lines, and each failure, which it raises too, in hundreds;
# through the logger that all users of absl share.
logging.getLogger("absl").addFilter(lambda record: "/orbax/checkpoint/" not in record.pathname)


class Checkpointer:
    """Saves, verifies and restores the checkpoints of one run; every process calls it alike.

    Only `save` and `restore_latest` change the directory: others may read while a run trains.

    Args:
      directory: where the steps are, local or gs://.
      keep: how many of the newest checkpoints stay, >= 1.
    """

    def __init__(self, directory: epath.PathLike, *, keep: int):
        path = epath.Path(directory)
        self._directory = path if path.is_absolute() else path.resolve()
        self._keep = keep
        self._manager: ocp.CheckpointManager | None = None

    def save(self, step: int, items: Mapping[str, PyTree], meta: Mapping[str, Any]) -> None:
        """Starts to save; the arrays may be donated as soon as this returns.

        Waits for the arrays, their checksums, their copy to the host and the save before this one;
        the files are written in the background. A step saved already is left as it is.

        Args:
          step: steps done, greater than every step saved before.
          items: {name: tree of arrays}; the name "meta" is taken.
          meta: JSON object, returned as it is by the restoring functions.

        Raises:
          RuntimeError: newer checkpoints exist, so that this one would not be the one found.
          UserError: this save, or the one before it in the background, could not be written.
        """
        manager = self._open()
        self.wait()
        if step in manager.all_steps():
            return
        stored = {name: to_nested(tree) for name, tree in items.items()}
        saves = {name: ocp.args.StandardSave(tree) for name, tree in stored.items() if tree}
        saves["meta"] = ocp.args.JsonSave(make_manifest(items, meta))
        with self._writing():
            saved = manager.save(step, args=ocp.args.Composite(**saves))
        if not saved:
            raise RuntimeError(
                f"Step {step} was not saved in {self._directory}, which holds step "
                f"{manager.latest_step()} already."
            )

    def restore_latest(
        self, abstract_items: Mapping[str, PyTree]
    ) -> tuple[int, dict[str, PyTree], dict[str, Any]] | None:
        """Restores the newest checkpoint that is whole, for a run that will save on.

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
        """As `restore_latest`, for any part of the items (such as "ema"); changes no file.

        Args:
          step: which checkpoint; the newest that is whole by default.

        Raises:
          UserError: there is no such checkpoint, it is damaged, or it does not fit.
        """
        found = self._newest_good(lambda step: self._restore(step, abstract_items), step)
        if found is None:
            raise UserError(
                f"There is no checkpoint in {self._directory}: train first, or mend --workdir."
            )
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
        """Returns when everything is written; raises UserError where something could not be."""
        if self._manager is not None:
            with self._writing():
                self._manager.wait_until_finished()

    def close(self) -> None:
        """As `wait`, and frees Orbax's threads; the next `save` starts them again."""
        if self._manager is not None:
            manager, self._manager = self._manager, None
            with self._writing():
                manager.close()

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        """Says in one sentence what the storage refused."""
        try:
            yield
        # TensorStore tells of a full disk by a ValueError.
        except (OSError, ValueError) as error:
            reason = os.strerror(errno.ENOSPC) if "RESOURCE_EXHAUSTED" in str(error) else error
            raise UserError(
                f"A checkpoint could not be written to {self._directory} ({reason}); those before "
                "it are intact: make room or mend the folder, and run the same command again."
            ) from error

    def _open(self) -> ocp.CheckpointManager:
        if self._manager is None:
            options = ocp.CheckpointManagerOptions(
                max_to_keep=self._keep,
                cleanup_tmp_directories=True,  # of saves that were killed
                save_root_metadata=False,
                # Else Orbax waits five minutes for a folder that could not be made.
                async_options=ocp.AsyncOptions(create_directories_asynchronously=False),
            )
            self._manager = ocp.CheckpointManager(self._directory, options=options)
        return self._manager

    def _steps(self) -> list[int]:
        """Steps saved completely, the newest first, as process 0 sees them: on a network's file
        system another may see the newest later."""
        self.wait()
        return sorted(gather(list(ocp.utils.checkpoint_steps(self._directory)))[0], reverse=True)

    def _newest_good(
        self, read: Callable[[int], T], only: int | None = None, *, set_aside: bool = False
    ) -> tuple[int, T] | None:
        """The newest step that `read` finds whole, and what it read; None if nothing was saved."""
        steps = self._steps()
        if only is not None and only not in steps:
            raise UserError(
                f"There is no checkpoint of step {only} in {self._directory}, which holds "
                f"{', '.join(map(str, steps)) or 'none'}."
            )
        damaged: dict[int, str] = {}
        for step in steps if only is None else [only]:
            try:
                result = read(step)
            except Damaged as error:
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
        if only is None:
            remains += sorted(path.name for path in self._directory.glob("corrupt-*"))
        if remains:
            raise UserError(
                f"No good checkpoint is left in {self._directory} ({'; '.join(remains)}): bring "
                "one back from a copy, or start from nothing with another --workdir."
            )
        return None

    def _set_aside(self, step: int) -> str:
        """Renames a step so that Orbax no longer sees it, and returns the new name."""
        name = f"corrupt-{step}-{datetime.datetime.now(datetime.UTC):%Y%m%dT%H%M%S.%f}"
        self.close()  # as Orbax keeps a list of the steps to save on
        if jax.process_index() == 0:
            (self._directory / str(step)).rename(self._directory / name)
        gather(None)  # none goes on before it has happened
        return name

    def _manifest(self, step: int) -> dict[str, Any]:
        handler, args = ocp.JsonCheckpointHandler(), ocp.args.JsonRestore()
        manifest = self._read(step, lambda folder: handler.restore(folder / "meta", args=args))
        check_manifest(manifest)
        if manifest["schema"] > SCHEMA:
            raise UserError(
                f"The checkpoint of step {step} in {self._directory} has schema "
                f"{manifest['schema']} and this program knows {SCHEMA} at most: use a newer cdt."
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
        result, reason = None, ""
        with _quiet():
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
        return result


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Orbax abandons its other coroutines on damage, and Python says so in hundreds of lines.

    One that waits for a file still may come through later.
    """
    hook, sys.unraisablehook = sys.unraisablehook, lambda _: None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)
            yield
    finally:
        sys.unraisablehook = hook
