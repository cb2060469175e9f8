"""Batches are a pure function of (seed, step, rows), and the prefetcher keeps their order."""

import threading
import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cdt.data.pipeline import Prefetcher, make_batch
from cdt.data.sources import Source
from cdt.data.text_states import TextManifest, TextStates


def numbered(size, labels=True):
    """A source whose image i has i in its first pixel and is not symmetric."""
    images = np.zeros((size, 2, 4, 1), np.uint8)
    images[:, 0, 0, 0] = np.arange(size) % 256
    images[:, 1, 0, 0] = 255
    numbers = np.arange(size, dtype=np.int32) if labels else None
    return Source(
        "numbered", lambda i: images[i], numbers, size if labels else None, (2, 4, 1), size, str
    )


def batches(source, seed=0, batch_size=8, flip=False, rows=None):
    return make_batch(source, seed=seed, batch_size=batch_size, flip=flip, rows=rows)


def stream(batch, steps):
    return np.concatenate([batch(step)["label"] for step in range(steps)])


@pytest.mark.parametrize("size", [1, 2, 7, 30, 250])
def test_every_epoch_is_a_permutation(size):
    # 8 does not divide these sizes, so batches span epochs; no example is dropped or repeated.
    order = stream(batches(numbered(size)), steps=-(-4 * size // 8))[: 4 * size].reshape(4, size)
    assert np.array_equal(np.sort(order), np.tile(np.arange(size), (4, 1)))
    if size >= 30:
        assert len({tuple(epoch) for epoch in order}) == 4


def test_large_set_is_permuted_without_a_table():
    size = 2**16 + 8
    order = stream(batches(numbered(size), batch_size=size // 4), 8).reshape(2, size)
    assert np.array_equal(np.sort(order), np.tile(np.arange(size), (2, 1)))
    assert (order[0] == order[1]).sum() < 10  # one fixed point is expected
    again = batches(numbered(size), batch_size=size // 4)(5)["label"]
    assert np.array_equal(again, order[1, size // 4 : size // 2])


def test_images_labels_and_forms():
    batch = batches(numbered(30))(3)
    assert batch["image"].shape == (8, 2, 4, 1) and batch["image"].dtype == np.uint8
    assert batch["label"].shape == (8,) and batch["label"].dtype == np.int32
    assert np.array_equal(batch["image"][:, 0, 0, 0], batch["label"])
    unlabelled = batches(numbered(30, labels=False))(3)
    assert np.array_equal(unlabelled["image"], batch["image"])
    assert set(unlabelled) == {"image"}


@pytest.mark.parametrize("count", [2, 4, 8])
@pytest.mark.parametrize("order", ["blocks", "interleaved"])
def test_the_rows_of_any_processes_make_up_the_same_global_batch(count, order):
    source = numbered(30)
    parts = np.arange(8).reshape(count, -1)
    if order == "interleaved":
        parts = np.arange(8).reshape(-1, count).T
    for step in (0, 3, 1000):
        whole = batches(source, flip=True)(step)
        for rows in parts:
            part = batches(source, flip=True, rows=rows)(step)
            for name in whole:
                assert np.array_equal(whole[name][rows], part[name])


def test_random_access_equals_sequential():
    source = numbered(30)
    sequential = [batches(source, flip=True)(step) for step in range(12)]
    batch = batches(source, flip=True)
    for step in (11, 0, 5, 5, 2):
        for name, value in batch(step).items():
            assert np.array_equal(value, sequential[step][name])


def test_seeds_differ():
    orders = {tuple(stream(batches(numbered(100), seed=seed), 10)) for seed in range(5)}
    assert len(orders) == 5


def test_order_is_uniform():
    # The first example of an epoch, over many epochs: chi-square with 9 degrees of freedom.
    batch = batches(numbered(10), batch_size=10)
    first = np.bincount([batch(step)["label"][0] for step in range(2000)], minlength=10)
    assert ((first - 200) ** 2 / 200).sum() < 27.9  # p = 0.001


def test_flip_mirrors_half_of_the_images_and_independently_of_the_epoch():
    batch = batches(numbered(8), batch_size=8, flip=True)
    seen = [batch(step) for step in range(500)]
    flipped = np.concatenate([b["image"][:, 1, 3, 0] == 255 for b in seen])
    upright = np.concatenate([b["image"][:, 1, 0, 0] == 255 for b in seen])
    assert np.array_equal(flipped, ~upright)
    assert abs(flipped.mean() - 0.5) < 4 * 0.5 / np.sqrt(len(flipped))
    labels = np.concatenate([b["label"] for b in seen])
    for example in range(8):  # each image is seen both ways, in about half of its epochs
        assert 0.4 < flipped[labels == example].mean() < 0.6
    # Bits of neighbouring positions are independent.
    assert abs((flipped[1:] == flipped[:-1]).mean() - 0.5) < 0.04


def test_flip_leaves_order_alone_and_source_intact():
    source = numbered(30)
    before = source.images(np.arange(30))
    plain, mirrored = batches(source)(2), batches(source, flip=True)(2)
    assert np.array_equal(plain["label"], mirrored["label"])
    assert not np.array_equal(plain["image"], mirrored["image"])
    assert np.array_equal(source.images(np.arange(30)), before)


def test_late_positions():
    # Position 2^40: far beyond any run, where 32-bit arithmetic would have wrapped.
    step = 2**37
    batch = batches(numbered(30), flip=True)
    assert np.array_equal(batch(step)["label"], batch(step)["label"])
    assert not np.array_equal(batch(step)["label"], batch(step % 30)["label"])


def test_prefetcher_keeps_order_from_its_first_step():
    batch = batches(numbered(30))
    prefetcher = Prefetcher(batch, start_step=5)
    for step in range(5, 25):
        assert np.array_equal(next(prefetcher)["label"], batch(step)["label"])
    prefetcher.close()


def test_prefetcher_computes_two_batches_ahead():
    computed, enough = [], threading.Event()

    def batch(step):
        computed.append(step)
        if len(computed) == 2:
            enough.set()
        return step

    prefetcher = Prefetcher(batch, start_step=0)
    assert enough.wait(10)
    time.sleep(0.05)
    assert computed == [0, 1]
    assert next(prefetcher) == 0
    prefetcher.close()
    assert computed in ([0, 1], [0, 1, 2])


def test_prefetcher_raises_in_the_consumer():
    def batch(step):
        if step == 2:
            raise OSError("record 2 is damaged")
        return step

    prefetcher = Prefetcher(batch, start_step=0)
    assert next(prefetcher) == 0 and next(prefetcher) == 1
    with pytest.raises(OSError, match="record 2 is damaged"):
        next(prefetcher)
    prefetcher.close()


def test_prefetcher_measures_waiting():
    slow = Prefetcher(lambda step: time.sleep(0.1), start_step=0)
    next(slow), next(slow)
    assert 0.1 < slow.wait_seconds < 5
    slow.close()
    quick = Prefetcher(lambda step: step, start_step=0)
    time.sleep(0.1)
    next(quick)
    assert quick.wait_seconds < 0.05
    quick.close()


def test_prefetcher_close_joins_its_thread():
    before = set(threading.enumerate())
    prefetcher = Prefetcher(lambda step: time.sleep(0.02), start_step=0)
    (thread,) = set(threading.enumerate()) - before
    prefetcher.close()
    assert not thread.is_alive()
    prefetcher.close()


def test_one_of_several_captions_is_drawn_anew_in_each_epoch():
    size = 30
    first = np.arange(size + 1) * 5
    states = np.arange(5 * size + 1, dtype=np.float16)[:, None, None]  # a caption's is its number
    manifest = TextManifest("", "", size, 5 * size, 1, 1, "")
    lengths = np.ones(5 * size + 1, np.int32)
    source = numbered(size)._replace(
        text=TextStates(manifest, states, lengths, [("",) * 5] * size, first)
    )
    batch = batches(source, batch_size=size)
    seen = np.zeros((size, 5), int)
    for epoch in range(200):
        found = batch(epoch)
        rows = found["text"][:, 0, 0].astype(int)
        assert np.array_equal(rows // 5, found["label"])
        seen[found["label"], rows % 5] += 1
    # Each of 5 captions is expected 40 times in 200 epochs, with deviation sqrt(200 * 0.16) = 5.7.
    assert np.abs(seen - 40).max() < 5 * 5.7
    for rows in np.arange(size).reshape(3, -1):
        part = batches(source, batch_size=size, rows=rows)(7)
        assert np.array_equal(batch(7)["text"][rows], part["text"])
    alone = source._replace(text=source.text._replace(first=np.append(np.arange(size), size)))
    assert np.array_equal(batches(alone)(3)["text"][:, 0, 0], batches(alone)(3)["label"])


@given(
    size=st.integers(1, 300),
    batch_size=st.integers(1, 40),
    processes=st.integers(1, 5),
    seed=st.integers(0, 2**32 - 1),
    start=st.integers(0, 30),
)
def test_any_epoch_in_any_split_holds_each_example_once(size, batch_size, processes, seed, start):
    """For any number of processes and any first step: epochs are permutations of the examples, and
    the rows of all processes together are the batch of one process."""
    source = numbered(size)
    whole = batches(source, seed=seed, batch_size=batch_size)
    rows = np.array_split(np.arange(batch_size), processes)
    parts = [batches(source, seed=seed, batch_size=batch_size, rows=r) for r in rows if len(r)]
    epoch = -(-start * batch_size // size)  # the first that begins at `start` or later
    begin, end = epoch * size, (epoch + 1) * size
    seen = {}
    for step in range(begin // batch_size, -(-end // batch_size)):
        joined = np.concatenate([part(step)["label"] for part in parts])
        np.testing.assert_array_equal(joined, whole(step)["label"])
        seen |= {step * batch_size + i: label for i, label in enumerate(joined)}
    assert sorted(seen[position] for position in range(begin, end)) == [*range(size)]
