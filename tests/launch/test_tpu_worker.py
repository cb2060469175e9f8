"""tpu_worker.sh, on a worker with fakes of python3, uv and the program."""

import os
import time

import pytest


@pytest.fixture
def installed(worker):
    assert worker.run("install") == (0, "")
    return worker


def wait_for(path, seconds=20):
    end = time.monotonic() + seconds
    while not path.exists():
        assert time.monotonic() < end
        time.sleep(0.02)


def marker(code):
    return f"\ncdt-exit {os.uname().nodename} {code}\n"


def test_install(installed):
    assert installed.lines("installed") == [
        "python3 -m pip install --quiet --upgrade --target=uv uv",
        "uv venv --quiet --allow-existing --python=3.12 venv",
        "uv pip install --quiet --python=venv/bin/python -r source/requirements.txt jax[tpu]",
    ]


@pytest.mark.parametrize("code", [0, 2, 75, 255])
def test_run_prints_the_exit_code_and_exits_with_0(installed, code):
    installed.behave(str(code))
    arguments = ["--workdir=gs://b/r", "--config.a=it's  two\nlines", ""]
    assert installed.run("run", "7.1", *arguments) == (0, "a line of output\n" + marker(code))
    assert installed.programs() == [arguments]


def test_the_same_run_is_not_started_twice(installed):
    # gcloud repeats the command when a connection breaks.
    installed.behave("saves")
    first = installed.start("run", "7.1", "--a")
    wait_for(installed.home / "ready")
    first.kill()
    first.wait()
    second = installed.start("run", "7.1", "--a")
    third = installed.start("run", "7.1", "--a")
    assert installed.run("stop", "7.1") == (0, "")
    for follower in (second, third):
        out, _ = follower.communicate(timeout=20)
        assert out == "a line of output\nstopped by a signal and saved\n" + marker(75)
    assert installed.run("run", "7.1", "--a") == (0, out)  # and when it has ended
    assert len(installed.programs()) == 1


def test_a_program_that_was_left_behind_is_ended_before_the_next(installed):
    installed.behave("saves")
    left = installed.start("run", "7.1", "--a")
    wait_for(installed.home / "ready")
    installed.behave("0")
    assert installed.run("run", "8.1", "--b") == (0, "a line of output\n" + marker(0))
    out, _ = left.communicate(timeout=20)
    assert out.endswith(marker(75))
    assert installed.programs() == [["--a"], ["--b"]]
    assert installed.lines("signals") == ["TERM"]


def test_a_program_gets_one_signal_and_is_killed_later(installed):
    installed.behave("hangs")
    run = installed.start("run", "7.1")
    wait_for(installed.home / "ready")
    assert installed.run("stop", STOP_SECONDS="1") == (0, "")
    out, _ = run.communicate(timeout=20)
    assert out.endswith(marker(137))
    assert installed.lines("signals") == ["TERM"]


def test_a_stop_that_overtakes_the_start_wins(installed):
    assert installed.run("stop", "7.1") == (0, "")
    for _ in range(2):  # gcloud may call it again
        assert installed.run("run", "7.1") == (0, marker(75))
    assert installed.programs() == []


def test_a_run_whose_host_was_restarted_is_lost(installed):
    installed.behave("saves")
    run = installed.start("run", "7.1")
    wait_for(installed.home / "ready")
    folder = installed.home / "cdt-launch" / "runs" / "7.1"
    os.kill(int((folder / "supervisor").read_text()), 9)
    out, _ = run.communicate(timeout=20)
    assert out.endswith(marker("lost"))
