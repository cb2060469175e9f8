"""Damaged examples: each is replaced and named, and too many stop a run."""

import json
import logging

import numpy as np
import pytest
from PIL import Image

from cdt.data import prepare
from cdt.data.bad_examples import Examples
from cdt.data.pipeline import make_batch
from cdt.data.prepared_format import prepared
from cdt.data.sources import BadExample, Source
from cdt.errors import EXIT_FINISHED, UserError
from cdt.modes.train import train
from smoke_runs import smoke

SIZE = 200


def damaged(bad, size=SIZE):
    """A source whose image i has the value i, and whose images `bad` cannot be read."""

    def images(indices):
        for index in indices:
            if index in bad:
                raise BadExample(f"example {index} is damaged")
        return np.asarray(indices, np.uint8)[:, None, None, None].copy()

    labels = np.arange(size, dtype=np.int32)
    return Source("numbered", images, labels, size, (1, 1, 1), size, str)


def test_the_next_good_example_and_its_label_replace_a_damaged_one():
    source = damaged({3, 4, 199})
    examples = Examples(source, 0.02)
    indices, images = examples.read(np.array([2, 3, 4, 5, 199]))
    np.testing.assert_array_equal(indices, [2, 5, 5, 5, 0])
    np.testing.assert_array_equal(images[:, 0, 0, 0], indices)
    assert examples.num_bad == 3


def test_batches_depend_neither_on_what_was_read_before_nor_on_the_process():
    bad = {3, 4, 77, 150}
    options = dict(seed=0, batch_size=16, flip=False)

    def reader(**more):
        source = damaged(bad)
        return make_batch(source, examples=Examples(source, 0.02), **options, **more)

    whole = reader()
    in_order = [whole(step) for step in range(20)]
    halves = [reader(rows=np.arange(8)), reader(rows=np.arange(8, 16))]
    for step in reversed(range(20)):
        both = [half(step) for half in halves]
        for name in ("image", "label"):
            joined = np.concatenate([batch[name] for batch in both])
            np.testing.assert_array_equal(joined, in_order[step][name])
        np.testing.assert_array_equal(in_order[step]["image"][:, 0, 0, 0], in_order[step]["label"])
    seen = set(np.concatenate([batch["label"] for batch in in_order]).tolist())
    assert seen == set(range(SIZE)) - bad


def test_each_is_named_once_and_more_than_the_limit_is_refused(caplog):
    examples = Examples(damaged({10, 20, 30, 40, 50}), 0.02)  # of 200: 4
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            examples.read(np.array([10, 20, 30, 40]))
    named = [f"example {index} is damaged" for index in (10, 20, 30, 40)]
    assert [record.getMessage().partition(".")[0] for record in caplog.records] == named
    with pytest.raises(UserError, match="5 of the 200.*allows 4.*example 10 is.*--on_bad=skip"):
        examples.read(np.array([50]))


@pytest.fixture
def pictures(tmp_path):
    """200 images of two classes; two of them (1 %) are damaged."""
    root, rng = tmp_path / "pictures", np.random.RandomState(0)
    for split, size in (("train", SIZE), ("test", 100)):
        for i in range(size):
            path = root / split / "ab"[i % 2] / f"{i:03d}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(rng.randint(0, 256, (8, 8), np.uint8)).save(path)
    cut = root / "train" / "a" / "010.png"
    cut.write_bytes(cut.read_bytes()[:60])
    (root / "train" / "b" / "013.png").write_bytes(b"no picture")
    return root


def config_of(pictures, **overrides):
    return smoke(
        **{"data.name": "folder", "data.path": str(pictures), "model.num_classes": 2,
           "train.duration": "2 epochs", "sample.num": 4, "sample.steps": 2}
        | overrides
    )  # fmt: skip


@pytest.mark.slow
def test_a_run_continues_with_one_in_a_hundred_damaged(pictures, tmp_path, caplog):
    (pictures / "test" / "a" / "000.png").write_bytes(b"")  # the first that validation asks for
    with caplog.at_level(logging.WARNING):
        assert train(config_of(pictures), str(tmp_path / "run")) == EXIT_FINISHED
    told = " ".join(record.getMessage() for record in caplog.records)
    for name in (
        "a/010.png cannot be decoded",
        "b/013.png is not an image file",
        "a/000.png is not an",
    ):
        assert told.count(name) == 1
    lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    counts = [json.loads(line).get("bad_examples") for line in lines]
    assert [count for count in counts if count is not None][-1] == 2


@pytest.mark.long  # a run
def test_a_run_stops_above_the_limit(pictures, tmp_path):
    with pytest.raises(
        UserError, match="2 of the 200 examples.*allows 1. The first:.*png.*--on_bad=skip"
    ):
        train(config_of(pictures, **{"data.max_bad_fraction": 0.005}), str(tmp_path / "run"))


def test_a_damaged_record_is_replaced(pictures, tmp_path):
    (pictures / "train" / "a" / "010.png").unlink()
    (pictures / "train" / "b" / "013.png").unlink()
    out = tmp_path / "prepared"
    arguments = ["--source=folder", f"--path={pictures}", f"--out={out}", "--split=train"]
    arguments += ["--image_size=8", "--channels=1", "--form=array_record"]
    assert prepare.prepare_command(["prepare", *arguments]) == EXIT_FINISHED
    (shard,) = (out / "train").glob("*.array_record")
    data = bytearray(shard.read_bytes())
    data[4000] ^= 1  # of a few records; the index of all records is at the end
    shard.write_bytes(data)
    source = prepared(out / "train")
    with pytest.raises(BadExample):
        source.images(np.arange(source.size))
    examples = Examples(source, 0.5)
    indices, images = examples.read(np.arange(source.size))
    assert 0 < examples.num_bad < 99
    np.testing.assert_array_equal(images, source.images(indices))
