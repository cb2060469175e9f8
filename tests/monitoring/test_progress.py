"""Plain lines where there is no terminal, a bar where there is one."""

import contextlib
import fcntl
import io
import logging
import os
import pty
import struct
import sys
import termios

import pytest

from cdt.monitoring import progress
from cdt.monitoring.progress import Progress


@pytest.fixture
def clock(monkeypatch):
    """A clock that tests move by hand."""
    now = [1000.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    return now


def terminal(rows: int, columns: int):
    """Return (file descriptor to read from, stream of a terminal of that size)."""
    reader, writer = pty.openpty()
    fcntl.ioctl(writer, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
    return reader, os.fdopen(writer, "w")


def everything(reader: int, stream) -> str:
    """Return the output on the terminal, and close it."""
    stream.close()
    chunks = []
    with contextlib.suppress(OSError):  # how Linux says that the other end is closed
        while chunk := os.read(reader, 65536):
            chunks.append(chunk)
    os.close(reader)
    return b"".join(chunks).decode()


def test_plain_lines_show_every_value(clock):
    stream = io.StringIO()
    bar = Progress(100, 0, stream=stream)
    bar.update(1)
    for step in range(2, 52):
        clock[0] += 1.0
        bar.update(step)
    bar.update(51, stage=2, num_stages=8, loss=0.123456, images_per_second=1234.56)
    clock[0] += 49.0
    bar.update(100, loss=0.1)
    bar.close()
    assert stream.getvalue().splitlines() == [
        "step 1/100",
        "step 11/100, 01:29 left",
        "step 21/100, 01:19 left",
        "step 31/100, 01:09 left",
        "step 41/100, 00:59 left",
        "step 51/100, 00:49 left",
        "step 51/100, stage 2/8, loss 0.1235, 1235 images/s, 00:49 left",
        "step 100/100, loss 0.1, 00:00 left",
    ]


def test_a_step_may_have_another_name(clock):
    stream = io.StringIO()
    Progress(9, 0, unit="image", stream=stream).update(3)
    assert stream.getvalue() == "image 3/9\n"


def test_a_line_does_not_repeat_the_loss_of_an_earlier_step(clock):
    stream = io.StringIO()
    bar = Progress(1000, 0, stream=stream)
    bar.update(1)
    for step in range(2, 42):
        clock[0] += 1.0
        if step % 20 == 0:
            bar.update(step, stage=1, num_stages=8, loss=step / 100, images_per_second=32.0)
        else:
            bar.update(step)
    assert [line.rpartition(", ")[0] for line in stream.getvalue().splitlines()[1:]] == [
        "step 11/1000",
        "step 20/1000, stage 1/8, loss 0.2, 32 images/s",
        "step 30/1000",
        "step 40/1000, stage 1/8, loss 0.4, 32 images/s",
    ]


def test_new_values_follow_at_most_every_5_seconds(clock):
    stream = io.StringIO()
    bar = Progress(1000, 0, stream=stream)
    for step in range(1, 13):
        bar.update(step, loss=0.5)
        clock[0] += 1.0
    steps = [line.partition("/")[0] for line in stream.getvalue().splitlines()]
    assert steps == ["step 1", "step 6", "step 11"]


def test_every_stage_is_shown(clock):
    stream = io.StringIO()
    bar = Progress(10, 0, stream=stream)
    for step in range(1, 7):
        bar.update(step, stage=1 + step // 3, num_stages=3)
    shown = [line.split(", ")[:2] for line in stream.getvalue().splitlines()]
    assert shown == [
        ["step 1/10", "stage 1/3"],
        ["step 3/10", "stage 2/3"],
        ["step 6/10", "stage 3/3"],
    ]


def test_the_time_left_counts_neither_compilation_nor_steps_of_an_earlier_run(clock):
    stream = io.StringIO()
    bar = Progress(1000, 900, stream=stream)
    clock[0] += 60.0  # compilation
    bar.update(901)
    clock[0] += 20.0
    bar.update(911)
    assert stream.getvalue().splitlines()[-1] == "step 911/1000, 02:58 left"


def test_the_last_step_is_shown_once(clock):
    stream = io.StringIO()
    bar = Progress(3, 0, stream=stream)
    for step in (1, 2, 3):
        bar.update(step)
    bar.close()
    assert stream.getvalue().splitlines() == ["step 1/3", "step 3/3, 00:00 left"]
    stream = io.StringIO()
    bar = Progress(3, 2, stream=stream)
    bar.update(3)
    bar.close()
    assert len(stream.getvalue().splitlines()) == 1


def test_a_run_without_a_step_says_nothing():
    stream = io.StringIO()
    Progress(3, 1, stream=stream).close()
    assert stream.getvalue() == ""


def test_a_message_is_a_line():
    stream = io.StringIO()
    Progress(3, 0, stream=stream).message("saved")
    assert stream.getvalue() == "saved\n"


def test_other_processes_are_silent():
    stream = io.StringIO()
    bar = Progress(3, 0, active=False, stream=stream)
    bar.update(1, stage=1, num_stages=2)
    bar.message("hello")
    bar.close()
    assert stream.getvalue() == ""


def test_a_terminal_gets_a_bar_that_messages_do_not_garble():
    reader, stream = terminal(30, 110)
    bar = Progress(100, 50, stream=stream)
    bar.update(60, stage=3, num_stages=8, loss=0.25, images_per_second=10.0)
    bar.message("hello")
    bar.update(100)
    bar.close()
    lines = everything(reader, stream).replace("\r", "\n").split("\n")
    assert "hello" in lines
    last = [line for line in lines if line.strip()][-1]
    assert last.startswith("100% |") and "100/100" in last
    assert "stage 3/8, loss 0.25, 10 images/s (step 60), 00:00 left" in last
    assert all(len(line) <= 110 for line in lines)


def test_a_warning_is_a_line_above_the_bar(monkeypatch):
    reader, stream = terminal(30, 110)
    monkeypatch.setattr(sys, "stderr", stream)
    handler = logging.StreamHandler(stream)
    logger = logging.getLogger()
    logger.addHandler(handler)
    others = [h for h in logger.handlers if h is not handler]
    bar = Progress(100, 50, stream=stream)
    bar.update(60)
    logging.warning("one example is damaged")
    bar.close()
    assert logger.handlers == [*others, handler]
    logger.removeHandler(handler)
    lines = everything(reader, stream).replace("\r", "\n").split("\n")
    assert "one example is damaged" in lines


def test_a_terminal_without_a_size_gets_lines():
    reader, stream = terminal(0, 0)
    bar = Progress(3, 0, stream=stream)
    bar.update(1)
    bar.close()
    assert everything(reader, stream) == "step 1/3\r\n"
