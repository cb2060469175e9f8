"""Which steps are traced. That the trace holds them is in tests/modes/test_train.py."""

import logging

import jax
import pytest

from cdt.monitoring.profile import Profile


@pytest.fixture
def calls(monkeypatch):
    """The calls of the profiler and of the loop, in order."""
    found = []
    monkeypatch.setattr(jax.profiler, "start_trace", lambda folder: found.append("start"))
    monkeypatch.setattr(jax.profiler, "stop_trace", lambda: found.append("stop"))
    return found


def loop(profile, calls, start, end, at_once=1):
    for step in range(start, end, at_once):
        profile.before(step, step + at_once)
        calls.append(step)
        profile.after(step + at_once)
    profile.close()


@pytest.mark.parametrize(
    ("steps", "start", "at_once", "expected"),
    [
        ((2, 4), 0, 1, [0, 1, "wait", "start", 2, 3, "wait", "stop", 4, 5]),
        ((0, 1), 0, 1, ["wait", "start", 0, "wait", "stop", 1, 2, 3, 4, 5]),
        # All of a dispatch that holds one of the steps.
        ((3, 5), 0, 2, [0, "wait", "start", 2, 4, "wait", "stop"]),
        # Resumed within them and beyond them.
        ((2, 4), 3, 1, ["wait", "start", 3, "wait", "stop", 4, 5]),
        ((2, 4), 4, 1, [4, 5]),
        # The run ends before the last of them.
        ((5, 9), 4, 1, [4, "wait", "start", 5, "stop"]),
        ((7, 9), 4, 1, [4, 5]),
        (None, 4, 1, [4, 5]),
    ],
)
def test_the_steps_that_are_traced(tmp_path, calls, steps, start, at_once, expected):
    profile = Profile(tmp_path, steps, lambda: calls.append("wait"))
    loop(profile, calls, start, 6, at_once)
    assert calls == expected


@pytest.mark.parametrize("name", ["start_trace", "stop_trace"])
def test_a_trace_that_fails_is_a_warning(tmp_path, calls, monkeypatch, caplog, name):
    def fail(*folder):
        raise RuntimeError("no room")

    monkeypatch.setattr(jax.profiler, name, fail)
    with caplog.at_level(logging.WARNING):
        loop(Profile(tmp_path, (1, 2), lambda: None), calls, 0, 4)
    assert [step for step in calls if step not in ("start", "stop")] == [0, 1, 2, 3]
    assert caplog.text.count("No trace in") == 1 and "no room" in caplog.text
