"""Writing one shard of a prepared data set: what a worker process does.

A finished shard is two files in the work folder, 00003.images and 00003.json. The second is
written last and says that the shard is done, so a kill at any moment leaves only shards that are
whole or absent.
"""

import json
import os
import threading
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from multiprocessing import parent_process
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from cdt.data.pictures import fit
from cdt.data.prepared_format import example_digest
from cdt.data.sources import BadExample, Source
from cdt.files import atomic


class Form(NamedTuple):
    """How images are written."""

    name: str  # one of prepared_format.FORMS
    shape: tuple[int, int, int]  # (H, H, C) of the images written
    upscale: bool = False  # allow images smaller than that
    skip_bad: bool = False  # leave bad examples out and name them; else the first one ends it


class Task(NamedTuple):
    """A shard to write; all of it can be pickled."""

    number: int
    open_source: Callable[[], Source]
    indices: np.ndarray  # int64: the shard's examples in that source
    work: Path
    form: Form


class Shard(NamedTuple):
    """What 00003.json says: the examples of a finished shard, without their images."""

    labels: list[int] | None
    captions: list[Sequence[str]] | None
    digests: str  # hex, 64 digits an example
    skipped: list[str]

    @property
    def num_examples(self) -> int:
        return len(self.digests) // 64


class Stopped(Exception):
    """The preparation ends before the shard does."""


def images_path(work: Path, number: int) -> Path:
    return work / f"{number:05d}.images"


def shard_path(work: Path, number: int) -> Path:
    return work / f"{number:05d}.json"


def read_shard(work: Path, number: int) -> Shard:
    """A shard that is finished: its `shard_path` exists."""
    return Shard(**json.loads(shard_path(work, number).read_text()))


def write_shard(task: Task, tick: Callable[[], None]) -> None:
    """Write a shard; `tick` is called after each example and may raise to stop.

    Raises:
      BadExample: an example cannot be used, and bad ones are not to be skipped.
    """
    source = task.open_source()
    shard = Shard(
        labels=None if source.labels is None else [],
        captions=None if source.captions is None else [],
        digests="",
        skipped=[],
    )
    digests = []
    # The name is nobody else's: what an earlier, killed process still holds open is not ours.
    partial = task.work / f"{task.number:05d}-{uuid.uuid4().hex}.partial"
    with _WRITERS[task.form.name](partial) as write:
        for i in task.indices:
            index = np.array([i])
            try:
                image = _fitted(source, index, task)
                label = None if source.labels is None else int(source.labels[index][0])
            except BadExample as error:
                if not task.form.skip_bad:
                    raise
                shard.skipped.append(str(error))
                tick()
                continue
            captions = None if source.captions is None else source.captions(index)[0]
            write(np.ascontiguousarray(image))
            digests.append(example_digest(image, label, captions).hex())
            if shard.labels is not None and label is not None:
                shard.labels.append(label)
            if shard.captions is not None and captions is not None:
                shard.captions.append(captions)
            tick()
    partial.replace(images_path(task.work, task.number))
    done = shard._replace(digests="".join(digests))
    atomic.write(shard_path(task.work, task.number), json.dumps(done._asdict()))


def _fitted(source: Source, index: np.ndarray, task: Task) -> np.ndarray:
    image = source.images(index)[0]
    if image.shape == task.form.shape:
        return image
    grey = image.shape[-1] == 1
    try:
        return fit(
            Image.fromarray(image[..., 0] if grey else image),
            task.form.shape[0],
            task.form.shape[2],
            upscale=task.form.upscale,
        )
    except (ValueError, TypeError) as error:  # TypeError: Pillow knows no such channels
        raise BadExample(f"example {index[0]} of {source.name} {error}") from error


@contextmanager
def _raw(path: Path) -> Iterator[Callable[[np.ndarray], object]]:
    with path.open("wb") as file:
        yield lambda image: file.write(image.data)


@contextmanager
def _records(path: Path) -> Iterator[Callable[[np.ndarray], object]]:
    from array_record.python.array_record_module import ArrayRecordWriter

    # Group size 1: a record can be read without its neighbours.
    writer = ArrayRecordWriter(os.fspath(path), "group_size:1")
    try:
        yield lambda image: writer.write(image.tobytes())
    finally:
        writer.close()


_WRITERS = {"memmap": _raw, "array_record": _records}

# Of a worker process: how many examples all workers have done, and whether to stop.
_counter: Any = None
_stop: Any = None


def start_worker(counter: Any, stop: Any) -> None:
    """Make a process a worker: it shares a counter of examples and an event that stops it."""
    import signal

    global _counter, _stop
    _counter, _stop = counter, stop
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the parent, which says stop
    # A worker whose parent was killed would wait for work for ever.
    threading.Thread(target=_leave_with_parent, daemon=True).start()


def _leave_with_parent() -> None:
    parent = parent_process()
    assert parent is not None  # this is a worker
    parent.join()
    os._exit(1)


def write_in_worker(task: Task) -> None:
    """`write_shard` in a process that `start_worker` prepared."""

    def tick() -> None:
        with _counter.get_lock():
            _counter.value += 1
        if _stop.is_set():
            raise Stopped

    write_shard(task, tick)
