"""Writing one shard of a prepared data set, in a worker process or in the parent.

A finished shard has two files in the work folder: 00003.images and 00003.json. The JSON file is
written last and marks the shard as finished, so a killed program leaves no partial shards.
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
    """The format in which images are written."""

    name: str  # one of prepared_format.FORMS
    shape: tuple[int, int, int]  # (H, H, C) of the written images
    upscale: bool = False  # allow smaller images
    skip_bad: bool = False  # skip and list bad examples; False: the first one raises


class Task(NamedTuple):
    """A shard to write; can be pickled."""

    number: int
    open_source: Callable[[], Source]
    indices: np.ndarray  # int64: the shard's examples in that source
    work: Path
    form: Form


class Shard(NamedTuple):
    """Content of 00003.json: the examples of a finished shard, without their images."""

    labels: list[int] | None
    captions: list[Sequence[str]] | None
    digests: str  # hex, 64 digits for each example
    skipped: list[str]  # the reason for each skipped example

    @property
    def num_examples(self) -> int:
        return len(self.digests) // 64


class Stopped(Exception):
    """The user stopped the preparation."""


def images_path(work: Path, number: int) -> Path:
    return work / f"{number:05d}.images"


def shard_path(work: Path, number: int) -> Path:
    return work / f"{number:05d}.json"


def read_shard(work: Path, number: int) -> Shard:
    """Return a finished shard, one whose `shard_path` exists."""
    return Shard(**json.loads(shard_path(work, number).read_text()))


def write_shard(task: Task, tick: Callable[[], None]) -> None:
    """Write a shard.

    Args:
      task: the shard.
      tick: called after each example; may raise to stop.

    Raises:
      BadExample: an example cannot be used, and `task.form.skip_bad` is False.
    """
    source = task.open_source()
    shard = Shard(
        labels=None if source.labels is None else [],
        captions=None if source.captions is None else [],
        digests="",
        skipped=[],
    )
    digests = []
    # A unique name: an earlier process that was killed may still have its file open.
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
    except (ValueError, TypeError) as error:  # TypeError: Pillow cannot have these channels
        raise BadExample(f"example {index[0]} of {source.name} {error}") from error


@contextmanager
def _raw(path: Path) -> Iterator[Callable[[np.ndarray], object]]:
    with path.open("wb") as file:
        yield lambda image: file.write(image.data)


@contextmanager
def _records(path: Path) -> Iterator[Callable[[np.ndarray], object]]:
    from array_record.python.array_record_module import ArrayRecordWriter

    # Group size 1: each record can be read alone.
    writer = ArrayRecordWriter(os.fspath(path), "group_size:1")
    try:
        yield lambda image: writer.write(image.tobytes())
    finally:
        writer.close()


_WRITERS = {"memmap": _raw, "array_record": _records}

# In a worker process: the number of finished examples of all workers, and the event to stop.
_counter: Any = None
_stop: Any = None


def start_worker(counter: Any, stop: Any) -> None:
    """Initialize a worker process with the shared counter of examples and the stop event."""
    import signal

    global _counter, _stop
    _counter, _stop = counter, stop
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent handles Ctrl-C and sets the event
    # Without this thread, a worker whose parent was killed would wait forever.
    threading.Thread(target=_leave_with_parent, daemon=True).start()


def _leave_with_parent() -> None:
    parent = parent_process()
    assert parent is not None  # this is a worker
    parent.join()
    os._exit(1)


def write_in_worker(task: Task) -> None:
    """Call `write_shard` in a process that `start_worker` initialized."""

    def tick() -> None:
        with _counter.get_lock():
            _counter.value += 1
        if _stop.is_set():
            raise Stopped

    write_shard(task, tick)
