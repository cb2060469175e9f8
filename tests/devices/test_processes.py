"""Joining and stopping as far as one process shows it; several are in tests/hosts."""

import os
import signal

import jax
import pytest

from cdt.devices import launcher
from cdt.devices.processes import Stop, join, several, together
from cdt.errors import UserError

SECONDS = {"connect_seconds": 5, "heartbeat_seconds": 5}


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (("localhost:1", None, None), "give all three or none"),
        ((None, 2, 0), "give all three or none"),
        (("localhost", 2, 0), "'localhost'; give it as HOST:PORT"),
        ((":1", 2, 0), "':1'; give it as HOST:PORT"),
        (("localhost:1", 2, 2), r"--process_id is 2; .* \[0, 2\)"),
        (("localhost:1", 0, 0), r"--process_id is 0; .* \[0, 0\)"),
    ],
)
def test_flags_that_do_not_fit_each_other(given, words):
    with pytest.raises(UserError, match=words):
        join(*given, **SECONDS, stops_together=False)


@pytest.mark.parametrize("name", SECONDS)
def test_times_are_positive(name):
    with pytest.raises(UserError, match=f"--{name} is 0; it must be at least 1"):
        join("localhost:1", 2, 0, **SECONDS | {name: 0}, stops_together=False)


def test_a_process_alone_joins_nothing(monkeypatch):
    join(None, None, None, **SECONDS, stops_together=True)
    monkeypatch.setattr(launcher, "name", lambda: "Kubernetes")
    join(None, 1, None, **SECONDS, stops_together=True)
    assert not jax.distributed.is_initialized() and not several()
    with pytest.raises(ZeroDivisionError), together():
        _ = 1 / 0


def test_a_cluster_that_jax_does_not_find(monkeypatch):
    def initialize(*args, **options):
        raise ValueError("coordinator_address should be defined.")

    monkeypatch.setattr(launcher, "name", lambda: "Kubernetes")
    monkeypatch.setattr(jax.distributed, "initialize", initialize)
    monkeypatch.setattr("cdt.devices.processes._explain_aborts", lambda: None)
    with pytest.raises(UserError, match="at the addresses from Kubernetes.* give --coordinator"):
        join(None, None, None, **SECONDS, stops_together=False)


def test_one_process_stops_by_itself():
    with Stop() as stop:
        assert not stop.after(1)
        os.kill(os.getpid(), signal.SIGTERM)
        assert stop.after(1) and stop.after(2)
