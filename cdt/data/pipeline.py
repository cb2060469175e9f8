"""Batches as a pure function of (seed, step, rows).

There is no iterator and no state: the example at position p of the endless stream is computed from
p. A resumed run therefore needs only its step, and a run may continue with another number of
processes and still train on the same examples.
"""

import time
from collections import deque
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from functools import lru_cache, partial

import numpy as np
from grain.experimental import index_shuffle

from cdt.data.bad_examples import Examples
from cdt.data.sources import Source

# The rows of this process as NumPy arrays: "image" (uint8 or latents) and the conditioning.
HostBatch = Mapping[str, np.ndarray]

# Random streams of one seed. Without them, the shuffle of epoch 0 and the flips would have the
# same key.
_SHUFFLE, _FLIP, _CAPTION = 0, 1, 2

# Grain's index_shuffle needs no table of the permutation, but walks a domain of at least 2^16
# positions until it hits the data: 22 us an example with 1,500 examples, 3 ms with 10. Smaller data
# sets are therefore permuted as a whole, once an epoch.
_SMALL = 2**16

_PREFETCHED = 2  # batches that are computed ahead


def batch_indices(size: int, seed: int, batch_size: int) -> Callable[[int], np.ndarray]:
    """Return a function from a step to the examples of its global batch.

    Row i of the global batch of `step` has position p = step * batch_size + i in the stream. Its
    epoch is p // size. Each epoch is a permutation of all examples. No example is dropped: a batch
    may contain the end of one epoch and the start of the next.

    Args:
      size: number of examples.
      seed: at least 0; fixes the order.
      batch_size: rows of the global batch.

    Returns:
      indices(step) -> int64[batch_size], for step >= 0.
    """
    example_index = _example_index(size, seed)

    def indices(step: int) -> np.ndarray:
        start = step * batch_size
        return np.array([example_index(start + i) for i in range(batch_size)], np.int64)

    return indices


def _example_index(size: int, seed: int) -> Callable[[int], int]:
    """Return the function from a position in the stream to the example there."""

    @lru_cache(maxsize=2)  # a batch spans at most two epochs, unless it is larger than the data
    def shuffle(epoch: int) -> Callable[[int], int]:
        epoch_seed = int(np.random.SeedSequence([seed, _SHUFFLE, epoch]).generate_state(1)[0])
        if size < _SMALL:
            return np.random.RandomState(epoch_seed).permutation(size).__getitem__
        return partial(index_shuffle, max_index=size - 1, seed=epoch_seed, rounds=4)

    def example_index(position: int) -> int:
        epoch, offset = divmod(position, size)
        return shuffle(epoch)(offset)

    return example_index


def make_batch(
    source: Source,
    *,
    examples: Examples | None = None,
    seed: int,
    batch_size: int,
    flip: bool,
    rows: np.ndarray | None = None,
) -> Callable[[int], HostBatch]:
    """Return a function from a step to its global batch, or to some rows of it.

    The examples are those of `batch_indices`. Every random number of a row depends only on its
    position in the stream, so any number of processes produces the same global batch.

    Args:
      source: the data; N = source.size.
      examples: reader of the source that replaces damaged examples; None: a damaged one raises.
      seed: at least 0; fixes the order, the flips and the choice of captions.
      batch_size: rows of the global batch.
      flip: mirror each image horizontally with probability 1/2, drawn again in each epoch. A
        source of latents must then have `mirror_images`.
      rows: ints in [0, batch_size), rows of the global batch; default all.

    Returns:
      A pure function of `step` >= 0. It returns a dict with "image" [b, ...] (uint8[b, H, W, C] for
      pixels) and the conditioning of `Source.condition`, such as "label" int32[b]; b is the number
      of rows. If an image has several captions, one is drawn in each epoch.
    """
    rows = np.arange(batch_size) if rows is None else np.asarray(rows)

    example_index = _example_index(source.size, seed)
    flip_key, caption_key = (
        np.random.SeedSequence([seed, stream]).generate_state(2, np.uint64)
        for stream in (_FLIP, _CAPTION)
    )

    def batch(step: int) -> HostBatch:
        start = step * batch_size
        indices = np.array([example_index(start + int(i)) for i in rows], np.int64)
        if examples is None:
            images = source.images(indices)
        else:
            indices, images = examples.read(indices)
        if flip:
            mirrored = (_random_words(flip_key, start, batch_size)[rows] & 1).astype(bool)
            if source.pixels:
                images[mirrored] = images[mirrored, :, ::-1]
            else:
                assert source.mirror_images is not None
                images[mirrored] = source.mirror_images(indices[mirrored])
        draws = None
        if source.text is not None:
            draws = _random_words(caption_key, start, batch_size)[rows]
        return {"image": images} | source.condition(indices, draws)

    return batch


def _random_words(key: np.ndarray, start: int, count: int) -> np.ndarray:
    """Return words start .. start + count - 1 of a random stream, uint64[count]."""
    # Philox hashes a counter to four words, so a stream can be read from any position.
    words = np.random.Philox(key=key, counter=start // 4)
    skip = start % 4
    return words.random_raw(skip + count)[skip:]


class Prefetcher:
    """Iterator over the batches of consecutive steps, computed ahead in a background thread.

    `next(prefetcher)` raises an error of the background thread when its batch is due.

    Args:
      batch: function of a step, from `make_batch`.
      start_step: step of the first batch.

    Attributes:
      wait_seconds: total time that `next` has waited so far, in seconds.
    """

    def __init__(self, batch: Callable[[int], HostBatch], start_step: int):
        self.wait_seconds = 0.0
        self._batch = batch
        self._next_step = start_step
        self._executor = ThreadPoolExecutor(max_workers=1, thread_name_prefix="prefetch")
        self._pending: deque[Future[HostBatch]] = deque()
        for _ in range(_PREFETCHED):
            self._submit()

    def _submit(self) -> None:
        self._pending.append(self._executor.submit(self._batch, self._next_step))
        self._next_step += 1

    def __iter__(self) -> "Prefetcher":
        return self

    def __next__(self) -> HostBatch:
        future = self._pending.popleft()
        began = time.perf_counter()
        result = future.result()
        self.wait_seconds += time.perf_counter() - began
        self._submit()
        return result

    def close(self) -> None:
        """Cancel the pending batches and join the thread; may be called more than once."""
        self._executor.shutdown(wait=True, cancel_futures=True)
