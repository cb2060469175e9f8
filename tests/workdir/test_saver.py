"""Which failures end a run. That the files are whole is in tests/faults/test_storage.py."""

import logging

import pytest

from cdt.workdir.checkpoint import NotSaved
from cdt.workdir.saver import Saver


class Checkpoints:
    """Fails where it is told to."""

    def __init__(self, fails):
        self.fails, self.calls = fails, []

    def wait(self):
        self._call("wait")

    def save(self, step, items, meta):
        self._call("save", step, items, meta)

    def _call(self, name, *arguments):
        self.calls.append((name, *arguments))
        if name == self.fails:
            raise NotSaved("The disk is full")


def test_each_save_waits_for_the_one_before():
    checkpoints = Checkpoints(None)
    Saver(checkpoints, {"a": 1}, stops=True).save(5, {"params": {}}, required=True)
    assert checkpoints.calls == [("wait",), ("save", 5, {"params": {}}, {"a": 1})]


@pytest.mark.parametrize("fails", ["wait", "save"])
@pytest.mark.parametrize("stops", [False, True])
def test_a_failure_ends_the_run_where_it_must(fails, stops, caplog):
    saver = Saver(Checkpoints(fails), {}, stops=stops)
    if stops:
        with pytest.raises(NotSaved):
            saver.save(5, {}, required=False)
        return
    with caplog.at_level(logging.WARNING):
        saver.save(5, {}, required=False)
    assert "The disk is full. Training continues (config.checkpoint.on_failure)" in caplog.text
    # The last save of a run is required, and so is that it is written; a failure of the one before
    # is not, as the last one is tried all the same.
    if fails == "save":
        with pytest.raises(NotSaved):
            saver.save(6, {}, required=True)
    else:
        saver.save(6, {}, required=True)
        with pytest.raises(NotSaved):
            saver.finish(required=True)
