"""Writing of a prepared split: the shards in worker processes, then the manifest."""

import fcntl
import json
import multiprocessing
import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import FIRST_EXCEPTION, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from cdt.data import shards as shard_files
from cdt.data.captions import caption_lines
from cdt.data.prepared_format import WORK, PreparedManifest, content_hash, read_manifest, shard_name
from cdt.data.shards import Form, Stopped, Task, images_path, read_shard, shard_path
from cdt.data.sources import Source
from cdt.devices.signals import StopRequest
from cdt.errors import UserError
from cdt.files import atomic
from cdt.monitoring.progress import Progress

# indices -> (function that opens a source, indices of the same examples in that source)
Part = Callable[[np.ndarray], tuple[Callable[[], Source], np.ndarray]]


def write_split(
    source: Source,
    part: Part | None,
    indices: np.ndarray,
    folder: str | os.PathLike[str],
    form: Form,
    *,
    shards: int,
    workers: int,
    settings: Mapping[str, Any],
) -> PreparedManifest:
    """Write examples of a source in the prepared format, and return the manifest.

    The same call after an interruption does not write finished shards again. Interruptions and the
    number of workers do not change a byte of the result.

    Args:
      source: the examples.
      part: indices -> (function that opens a source in another process, indices of the same
        examples in it); None: all work is done in this process.
      indices: int64[n], n > 0; the examples of `source` to write, in this order.
      folder: of the split; local, created if it does not exist.
      form: the format of the images.
      shards: number of shards, in [1, n].
      workers: number of worker processes; ignored without `part`.
      settings: other settings of this preparation, for the manifest; plain JSON.

    Raises:
      BadExample: an example is damaged or too small, and `form.skip_bad` is False.
      UserError: the folder has other content, another process is preparing it, or the disk is
        full.
      Stopped: after SIGTERM or SIGINT.
    """
    folder = Path(folder)
    settings = {
        **settings,
        "form": form.name,
        "image_size": form.shape[0],
        "channels": form.shape[2],
        "shards": shards,
    }
    if (folder / "manifest.json").exists():
        manifest = read_manifest(folder)
        _check_same(folder, manifest.settings, settings)
        _clean(folder / WORK)  # left if the program was killed just before it removes this
        return manifest
    work = folder / WORK
    try:
        with _claimed(work, settings), StopRequest() as request:
            tasks = [
                Task(number, *_opener(source, part, block), work, form)
                for number, block in enumerate(np.array_split(indices, shards))
                if not shard_path(work, number).exists()
            ]
            left = sum(len(task.indices) for task in tasks)
            workers = workers if part is not None else 1
            _write_all(tasks, len(indices), left, workers, request)
            manifest = _finish(source, folder, form, shards, settings)
            _clean(work)
    except OSError as error:
        raise UserError(
            f"{folder} cannot be written to ({error}); fix this and run the same command again."
        ) from error
    return manifest


def _opener(
    source: Source, part: Part | None, block: np.ndarray
) -> tuple[Callable[[], Source], np.ndarray]:
    return part(block) if part is not None else (lambda: source, block)


def _check_same(folder: Path, saved: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    # `path` may differ, because data can be moved: the fingerprint identifies them. `on_bad` may
    # differ, so that a user can skip a bad image found after hours: finished shards had none.
    free = ("path", "on_bad")
    names = [name for name in now if name not in free and saved.get(name) != now[name]]
    if names:
        what = ", ".join(
            f"{name} (saved: {saved.get(name)!r}, now: {now[name]!r})" for name in names
        )
        raise UserError(
            f"{folder} was prepared with other settings: {what}; give another --out or remove this "
            "folder."
        )


@contextmanager
def _claimed(work: Path, settings: Mapping[str, Any]) -> Iterator[None]:
    """Create the work folder if necessary, and lock it for this process."""
    foreign = [path.name for path in work.parent.glob("*") if path != work]
    if foreign and not work.exists():
        raise UserError(
            f"{work.parent} contains {foreign[0]}, which cdt.data.prepare did not write; give "
            "another --out."
        )
    work.mkdir(parents=True, exist_ok=True)
    with (work / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)  # the kernel frees it after a kill too
        except BlockingIOError:
            raise UserError(
                f"another process is preparing {work.parent}; wait until it ends, or stop it."
            ) from None
        path = work / "settings.json"
        if path.exists() and len(list(work.glob("*.json"))) > 1:  # at least one finished shard
            _check_same(work.parent, json.loads(path.read_text()), settings)
        else:
            atomic.write(path, json.dumps(settings, indent=1))
        for partial in work.glob("*.partial"):
            partial.unlink()
        yield


def _write_all(
    tasks: list[Task], total: int, left: int, workers: int, request: StopRequest
) -> None:
    """Write the unfinished shards and show progress.

    Args:
      tasks: the unfinished shards.
      total: number of examples in all shards.
      left: number of examples in `tasks`.
      workers: number of worker processes.
      request: becomes true after SIGTERM or SIGINT.
    """
    if not tasks:
        return
    progress = Progress(total, total - left, unit="image")
    began = time.monotonic()

    def show(done: int) -> None:
        rate = done / max(time.monotonic() - began, 1e-9)
        progress.update(total - left + done, images_per_second=rate or None)

    try:
        if workers == 1:
            _write_here(tasks, show, request)
        else:
            _write_in_workers(tasks, show, request, min(workers, len(tasks)))
    finally:
        progress.close()


def _write_here(tasks: list[Task], show: Callable[[int], None], request: StopRequest) -> None:
    done = 0

    def tick() -> None:
        nonlocal done
        done += 1
        if done % 64 == 0:
            show(done)
        if request.requested:
            raise Stopped

    for task in tasks:
        shard_files.write_shard(task, tick)
    show(done)


def _write_in_workers(
    tasks: list[Task], show: Callable[[int], None], request: StopRequest, workers: int
) -> None:
    context = multiprocessing.get_context("spawn")  # a fork of a process with threads may hang
    counter, stop = context.Value("q", 0), context.Event()
    pool = ProcessPoolExecutor(
        workers, context, initializer=shard_files.start_worker, initargs=(counter, stop)
    )
    try:
        pending = {pool.submit(shard_files.write_in_worker, task) for task in tasks}
        while pending:
            done, pending = wait(pending, timeout=0.5, return_when=FIRST_EXCEPTION)
            for future in done:
                future.result()
            show(counter.value)
            if request.requested:
                raise Stopped
    except BrokenProcessPool as error:
        if request.requested:  # the workers received the signal too
            raise Stopped from error
        raise UserError(
            "a worker process was killed, possibly because memory ran out; run the same command "
            "again with fewer --workers."
        ) from error
    finally:
        stop.set()
        pool.shutdown(cancel_futures=True)


def _finish(
    source: Source,
    folder: Path,
    form: Form,
    shards: int,
    settings: Mapping[str, Any],
) -> PreparedManifest:
    """Move the images, labels and captions of the shards into place, then write the manifest.

    Every operation may be repeated, so an interruption between two of them is harmless.
    """
    work = folder / WORK
    counts: list[int] = []
    skipped: list[str] = []
    for number in range(shards):
        shard = read_shard(work, number)
        counts.append(shard.num_examples)
        skipped += shard.skipped
    if not sum(counts):
        raise UserError(
            f"all {len(skipped)} images were skipped, the first: {skipped[0]}; give images that "
            "fit --image_size and --channels."
        )
    for number in range(shards):
        images = images_path(work, number)
        if form.name == "array_record" and images.exists():
            images.replace(folder / shard_name(number, shards))
    if form.name == "memmap":
        _join(folder / "images.bin", work, counts, int(np.prod(form.shape)))
    if source.labels is not None:
        path = work / "labels.npy"
        labels = [np.array(read_shard(work, n).labels, np.int32) for n in range(shards)]
        np.save(path, np.concatenate(labels))
        path.replace(folder / "labels.npy")
    if source.captions is not None:
        path = work / "captions.jsonl"
        with path.open("w") as file:
            for number in range(shards):
                file.writelines(caption_lines(read_shard(work, number).captions or ()))
        path.replace(folder / "captions.jsonl")
    manifest = PreparedManifest(
        form=form.name,
        count=sum(counts),
        shape=form.shape,
        num_classes=source.num_classes,
        classes=source.classes,
        captions=source.captions is not None,
        shards=tuple(counts) if form.name == "array_record" else (sum(counts),),
        sha256="",
        skipped=tuple(skipped),
        settings=settings,
    )
    manifest = manifest._replace(sha256=content_hash(manifest, _digests(work, shards)))
    atomic.write(folder / "manifest.json", json.dumps(manifest._asdict(), indent=1))
    return manifest


def _digests(work: Path, shards: int) -> Iterator[bytes]:
    for number in range(shards):
        yield bytes.fromhex(read_shard(work, number).digests)


def _join(target: Path, work: Path, counts: list[int], image_bytes: int) -> None:
    """Append the images of each shard to one file and remove the shard.

    This needs no disk space for a second copy of the data set. A shard whose file is gone has been
    appended. Bytes after it are an incomplete copy of the next shard, left by an interruption.
    """
    with target.open("ab") as joined:
        length = 0
        for number, count in enumerate(counts):
            images = images_path(work, number)
            if images.exists():
                joined.truncate(length)
                with images.open("rb") as file:
                    shutil.copyfileobj(file, joined, 2**20)
                joined.flush()
                images.unlink()
            length += count * image_bytes


def _clean(work: Path) -> None:
    """Remove the work folder and its files."""
    if work.exists():
        for path in work.iterdir():
            path.unlink(missing_ok=True)
        work.rmdir()
