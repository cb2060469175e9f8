"""Cached text states: writing, resuming, reading, and refusal of wrong ones."""

import json
import sys

import numpy as np
import pytest

from cdt.data import text
from cdt.data.sources import in_memory
from cdt.data.text_encoder import TextEncoder, load_encoder
from cdt.data.text_states import mock_text_states, read_text_states, text_folder
from cdt.errors import EXIT_FINISHED, EXIT_STOPPED, EXIT_USER_ERROR, UserError

CAPTIONS = ["red heart", "dog face", "", "a very long caption indeed", "cat"] * 3
LENGTH, WIDTH = 4, 3


def encode(captions):
    """One token a word; its state is computed from the letters, so tests can recompute it."""
    states = np.zeros((len(captions), LENGTH, WIDTH), np.float32)
    lengths = np.ones(len(captions), np.int32)
    for i, caption in enumerate(captions):
        words = caption.split()[:LENGTH]
        lengths[i] = max(len(words), 1)
        for j, word in enumerate(words):
            states[i, j] = [len(word), ord(word[0]) / 8, -1.5]
    return states, lengths


ENCODER = TextEncoder(encode, "letters", "abc", LENGTH, WIDTH)


@pytest.fixture
def source():
    images = np.zeros((len(CAPTIONS), 2, 2, 1), np.uint8)
    return in_memory("set/train", images, None, None)._replace(
        captions=lambda indices: [(CAPTIONS[i],) for i in indices]
    )


def cached(source, split, batch_size=4, encoder=ENCODER):
    return text.cache_states(source, encoder, text_folder(split), batch_size)


def test_states_are_read_back_and_the_empty_caption_is_the_null(source, tmp_path):
    assert cached(source, tmp_path)
    found = read_text_states(tmp_path, "letters")
    indices = np.array([3, 0, 14, 3])
    states, lengths = encode([CAPTIONS[i] for i in indices])
    condition = found.condition(indices)
    assert condition["text"].dtype == np.float16
    np.testing.assert_array_equal(condition["text"], states)
    np.testing.assert_array_equal(condition["text_length"], lengths)
    np.testing.assert_array_equal(found.null["text"], encode([""])[0][0])
    assert found.null["text_length"] == 1 and found.manifest.count == 15
    assert cached(source, tmp_path)  # finished already: nothing is encoded again
    assert not list(text_folder(tmp_path).glob("unfinished*"))


def test_of_several_captions_the_first_or_one_by_lot(source, tmp_path):
    several = [("red heart", "dog", "a b c"), ("cat",), ("one two", "")]
    source = in_memory("set/train", np.zeros((3, 2, 2, 1), np.uint8), None, None)._replace(
        captions=lambda indices: [several[i] for i in indices]
    )
    assert cached(source, tmp_path)
    found = read_text_states(tmp_path, "letters")
    assert (found.manifest.count, found.manifest.num_captions) == (3, 6)
    assert found.captions == several and found.first.tolist() == [0, 3, 4, 6]
    first = found.condition(np.array([2, 0]))
    np.testing.assert_array_equal(first["text"], encode(["one two", "red heart"])[0])
    draws = np.array([0, 1, 2, 2**64 - 1, 7, 2**63, 3], np.uint64)  # 2^64 - 1 is a multiple of 3
    drawn = found.condition(np.array([0, 0, 0, 0, 1, 2, 2]), draws)
    chosen = ["red heart", "dog", "a b c", "red heart", "cat", "one two", ""]
    np.testing.assert_array_equal(drawn["text"], encode(chosen)[0])
    np.testing.assert_array_equal(drawn["text_length"], encode(chosen)[1])
    np.testing.assert_array_equal(found.null["text"], encode([""])[0][0])


@pytest.mark.parametrize("calls", [0, 1, 3])
def test_after_a_kill_what_is_done_is_not_done_again(source, tmp_path, calls):
    seen = []

    def dies(captions):
        if len(seen) == calls:
            raise KeyboardInterrupt
        seen.append(list(captions))
        return encode(captions)

    with pytest.raises(KeyboardInterrupt):
        cached(source, tmp_path, encoder=ENCODER._replace(encode=dies))
    with pytest.raises(UserError, match="no finished text states"):
        read_text_states(tmp_path, "letters")
    left = []

    def counted(captions):
        left.append(list(captions))
        return encode(captions)

    assert cached(source, tmp_path, encoder=ENCODER._replace(encode=counted))
    assert sum(seen + left, []) == [*CAPTIONS, ""]
    whole = read_text_states(tmp_path, "letters")
    np.testing.assert_array_equal(whole.states, encode([*CAPTIONS, ""])[0])


def test_a_full_disk_is_one_sentence_and_costs_one_batch(source, tmp_path, monkeypatch):
    syncs = []

    def full(file):
        syncs.append(file)
        if len(syncs) == 4:  # two files a batch: the second batch's lengths
            raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(UserError, match="cannot be written to .No space left on device"):
        cached(source, tmp_path)
    monkeypatch.undo()
    left = []

    def counted(captions):
        left.append(list(captions))
        return encode(captions)

    assert cached(source, tmp_path, encoder=ENCODER._replace(encode=counted))
    assert sum(left, []) == [*CAPTIONS[4:], ""]
    whole = read_text_states(tmp_path, "letters")
    np.testing.assert_array_equal(whole.states, encode([*CAPTIONS, ""])[0])
    np.testing.assert_array_equal(whole.lengths, encode([*CAPTIONS, ""])[1])


def test_other_states_are_refused(source, tmp_path):
    cached(source, tmp_path)
    for change in ({"sha256": "other"}, {"name": "other"}, {"max_length": 9}):
        with pytest.raises(UserError, match="another encoder, other captions or"):
            cached(source, tmp_path, encoder=ENCODER._replace(**change))
    with pytest.raises(UserError, match="another encoder, other captions or"):
        cached(source._replace(fingerprint=lambda: "other"), tmp_path)
    with pytest.raises(UserError, match="text_encoder is 'clip', but .* has states of 'letters'"):
        read_text_states(tmp_path, "clip")


def test_what_cannot_be_cached_is_named(source, tmp_path):
    with pytest.raises(UserError, match="has no captions"):
        cached(source._replace(captions=None), tmp_path)
    large = ENCODER._replace(encode=lambda captions: (1e6 * encode(captions)[0], None))
    with pytest.raises(UserError, match="more than the maximum of float16"):
        cached(source, tmp_path, encoder=large)


@pytest.mark.parametrize("name", ["states.bin", "lengths.bin", "captions.jsonl", "manifest.json"])
def test_damaged_files_are_named(source, tmp_path, name):
    cached(source, tmp_path)
    path = text_folder(tmp_path) / name
    path.write_bytes(path.read_bytes()[:-3])
    with pytest.raises(UserError, match="is damaged.*python -m cdt.data.text"):
        read_text_states(tmp_path, "letters")


def test_states_of_an_older_layout_are_said_to_be_that(source, tmp_path):
    cached(source, tmp_path)
    path = text_folder(tmp_path) / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"version": 2}))
    (text_folder(tmp_path) / "captions.jsonl").unlink()
    with pytest.raises(UserError, match="its version is 2.*; remove it and run"):
        read_text_states(tmp_path, "letters")
    with pytest.raises(UserError, match="another version of cdt; remove it"):
        cached(source, tmp_path)


def test_mock_states_tell_the_classes_apart():
    labels = np.array([0, 1, 2, 0])
    states = mock_text_states(labels)
    told = states.condition(np.arange(4))
    np.testing.assert_array_equal(told["text"][0], told["text"][3])
    assert not np.array_equal(told["text"][0], told["text"][1])
    # The null is independent of the data, because the model is built without data.
    other = mock_text_states(np.zeros(1, np.int32))
    np.testing.assert_array_equal(states.null["text"], other.null["text"])


def test_command_line(source, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(text, "prepared", lambda split: source)
    monkeypatch.setattr(text, "load_encoder", lambda name, length: ENCODER)
    data = tmp_path / "set"
    argv = ["text", f"--data={data}", "--encoder=letters"]
    assert text.text_command(argv) == EXIT_FINISHED
    assert "captions of 15 images, states of 4 x 3" in capsys.readouterr().out
    assert json.loads((data / "train/text/manifest.json").read_text())["encoder"] == "letters"
    assert text.text_command(["text", "--encoder=letters"]) == EXIT_USER_ERROR
    assert "--data is missing; give the folder" in capsys.readouterr().err
    assert text.text_command([*argv, "--encoding=x"]) == EXIT_USER_ERROR
    monkeypatch.setattr(text, "cache_states", lambda *args: False)
    assert text.text_command(argv) == EXIT_STOPPED


def test_missing_libraries_are_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(UserError, match="pip install -r requirements-text.txt"):
        load_encoder("letters", 4)
