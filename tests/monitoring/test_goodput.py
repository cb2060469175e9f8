"""Time of a run by activity, on a simulated clock."""

import pytest

from cdt.monitoring.goodput import KINDS, Goodput


class Clock:
    def __init__(self):
        self.now = 100.0

    def __call__(self):
        return self.now


def test_every_second_is_of_one_kind():
    clock = Clock()
    goodput = Goodput(clock)
    for kind, spent in [("compile", 5), ("step", 30), ("data", 2), ("step", 10), ("checkpoint", 3)]:
        with goodput.of(kind):
            clock.now += spent
    clock.now += 10
    assert goodput.seconds == dict(zip(KINDS, (40, 2, 0, 3, 0, 5, 10), strict=True))
    assert goodput.table() == (
        "60.0 s: step 66.7 % (40.0 s), data 3.3 % (2.0 s), checkpoint 5.0 % (3.0 s), "
        "compile 8.3 % (5.0 s), idle 16.7 % (10.0 s)"
    )


def test_time_that_ends_in_an_error_counts():
    clock = Clock()
    goodput = Goodput(clock)
    with pytest.raises(OSError), goodput.of("checkpoint"):
        clock.now += 3
        raise OSError
    assert goodput.seconds["checkpoint"] == 3


def test_unknown_kinds_are_refused():
    with pytest.raises(KeyError), Goodput().of("coffee"):
        pass
