"""Failed saves that end a run, and those that do not."""

import logging

import pytest

from cdt.workdir.checkpoint import NotSaved
from cdt.workdir.saver import Saver


class Checkpoints:
    """Checkpointer that fails at given calls."""

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
    # The last save of a run is required and must be written. A failure of the save before it does
    # not end the run: the last save is tried anyway.
    if fails == "save":
        with pytest.raises(NotSaved):
            saver.save(6, {}, required=True)
    else:
        saver.save(6, {}, required=True)
        with pytest.raises(NotSaved):
            saver.finish(required=True)
