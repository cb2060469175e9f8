"""Batches as a pure function of (seed, step, rows).

Nothing is iterated and nothing is remembered: the example at position p of the endless stream is
computed from p. A resumed run therefore needs only its step, and a run may change its number of
processes without changing what the model sees.
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

# "image" uint8 or latents, and the condition: this process's rows, before they are on a device
HostBatch = Mapping[str, np.ndarray]

# Streams of one seed. Without them epoch 0's shuffle and the flips would share their key.
_SHUFFLE, _FLIP, _CAPTION = 0, 1, 2

# Grain's index_shuffle needs no table of the permutation, but walks a domain of 2^16 positions or
# more until it lands inside the data: 22 us an example of 1,500, 3 ms an example of 10. A set
# smaller than the domain is permuted whole instead, once an epoch.
_SMALL = 2**16


def batch_indices(size: int, seed: int, batch_size: int) -> Callable[[int], np.ndarray]:
    """Return indices(step): int64[batch_size], which examples the global batch of a step holds.

    Row i of global batch `step` has position p = step * batch_size + i in the stream. Its epoch is
    p // size, and within an epoch all examples are permuted (a batch may straddle two epochs; no
    example is dropped).

    Args:
      size: examples of the data.
      seed: >= 0; fixes the order.
      batch_size: of the global batch.
    """
    example_index = _example_index(size, seed)

    def indices(step: int) -> np.ndarray:
        start = step * batch_size
        return np.array([example_index(start + i) for i in range(batch_size)], np.int64)

    return indices


def _example_index(size: int, seed: int) -> Callable[[int], int]:
    """Return the function from a position in the stream to the example there."""

    @lru_cache(maxsize=2)  # a batch straddles two epochs at most, unless it outgrows the data
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
    """Return `batch(step)`, the global batch of that step or some of its rows.

    The examples are those of `batch_indices`. All that is drawn for a row depends on its position
    in the stream alone, so the rows of any number of processes make up the same global batch.

    Args:
      source: the data; N = source.size.
      examples: reads the source's images where some may be damaged; None: every one must be good.
      seed: >= 0; fixes the order and the flips.
      batch_size: of the global batch.
      flip: mirror each image left-right with probability 1/2, drawn anew in each epoch. A source
        without pixels must have `mirror_images` for it.
      rows: of the global batch, ints in [0, batch_size); default all.

    Returns:
      A pure function of `step` >= 0 to {"image": [b, ...] as the source has them, uint8[b, H, W, C]
      if they are pixels} and the source's condition of these images, such as "label" int32[b],
      with b the number of rows. Of an image's captions one is drawn in each epoch.
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
    """Words start .. start + count - 1 of a random stream, uint64[count], without the rest."""
    # Philox is a hash of a counter and gives four words a count, so any position is reachable.
    words = np.random.Philox(key=key, counter=start // 4)
    skip = start % 4
    return words.random_raw(skip + count)[skip:]


class Prefetcher:
    """Computes the batches start_step, start_step + 1, ... ahead of need in a background thread.

    `next(prefetcher)` returns the next batch, and raises there whatever computing it raised.
    `wait_seconds` is the total time, in seconds, that `next` has had to wait so far.
    """

    def __init__(self, batch: Callable[[int], HostBatch], start_step: int, depth: int = 2):
        """Start on `depth` batches at once; `batch` is what `make_batch` returns."""
        self.wait_seconds = 0.0
        self._batch = batch
        self._next_step = start_step
        self._executor = ThreadPoolExecutor(max_workers=1, thread_name_prefix="prefetch")
        self._pending: deque[Future[HostBatch]] = deque()
        for _ in range(depth):
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
        """Drop what is pending and join the thread. May be called more than once."""
        self._executor.shutdown(wait=True, cancel_futures=True)
