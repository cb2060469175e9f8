"""Messages of the command line: the lines of a phase, and output that cannot be written."""

import io
import logging
import os
import subprocess
import sys
import threading
import time

import pytest

from cdt.monitoring import console


@pytest.fixture
def printed(caplog):
    """Return printed() -> the messages so far."""
    caplog.set_level(logging.INFO, "cdt")
    return lambda: caplog.messages


def test_a_quick_phase_prints_its_result_only(printed):
    with console.phase("importing JAX"):
        pass
    with console.phase("reading data") as reading:
        reading.result = "1,437 images"
    assert printed() == ["reading data ... 1,437 images"]


def test_a_long_phase_repeats_its_count_and_leaves_no_thread(printed, monkeypatch):
    monkeypatch.setattr(console, "_QUIET_SECONDS", 0.0)
    monkeypatch.setattr(console, "_PAUSES", (0.02, 60.0))
    monkeypatch.setattr(console, "_SHORT_SECONDS", 0.0)
    with console.phase("generating images", 2000) as generating:
        for _ in generating.counted([range(256), range(256)]):
            pass
        while len(printed()) < 2:
            time.sleep(0.001)
    assert "phase" not in {thread.name for thread in threading.enumerate()}
    assert printed()[0] == "generating images ..."
    assert printed()[1].startswith("generating images ... 512 / 2,000 (")
    assert printed()[2].startswith("generating images ... done (")


def test_a_phase_that_fails_prints_no_end(printed, monkeypatch):
    monkeypatch.setattr(console, "_QUIET_SECONDS", 0.0)
    with pytest.raises(OSError), console.phase("reading data"):
        while not printed():
            time.sleep(0.001)
        raise OSError
    assert printed() == ["reading data ..."]


def test_a_program_that_imports_cdt_sees_no_messages():
    program = (
        "from cdt.monitoring import console\n"
        "with console.phase('reading data') as reading: reading.result = '1 image'"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.mark.parametrize("process, prints", [(0, True), (3, False)])
def test_process_0_alone_prints(caplog, process, prints):
    logger = logging.getLogger("cdt")
    try:
        console.start("train", "digits.py", "runs/digits", process)
        expected = ["cdt 0.2.0: train, digits.py -> runs/digits"] if prints else []
        assert caplog.messages == expected
    finally:
        logger.setLevel(logging.NOTSET)


@pytest.mark.parametrize(
    "seconds, text",
    [(0.04, "0.0 s"), (9.94, "9.9 s"), (9.96, "10 s"), (59.4, "59 s"), (59.6, "1 min"),
     (125, "2 min 5 s"), (4321, "1 h 12 min")],
)  # fmt: skip
def test_durations(seconds, text):
    assert console.duration(seconds) == text


PROGRAM = """
import sys
from cdt.monitoring import console
console.open_console()
console.start("train", "digits.py", "runs/digits", 0)
for _ in range(50):
    print("x" * 4000)
    print("y" * 4000, file=sys.stderr)
open(sys.argv[1], "w").write("finished")
sys.exit(3)
"""


@pytest.mark.parametrize("broken", ["closed", "full disk", "closed pipe", "pipe without a reader"])
def test_output_that_cannot_be_written_changes_nothing(tmp_path, broken):
    reader, writer = os.pipe()
    redirect = {"closed": ">&- 2>&-", "full disk": ">/dev/full 2>&1"}.get(broken, "")
    if broken == "closed pipe":
        os.close(reader)
    done = subprocess.run(
        ["sh", "-c", f'"$0" -c "$1" "$2" {redirect}', sys.executable, PROGRAM, tmp_path / "file"],
        stdout=writer, stderr=writer, timeout=30,
    )  # fmt: skip
    assert done.returncode == 3
    assert (tmp_path / "file").read_text() == "finished"
    os.close(writer)
    if broken != "closed pipe":
        os.close(reader)


def test_output_that_can_be_written_is_whole(tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, tmp_path / "file"], capture_output=True, text=True
    )
    assert done.stdout == ("x" * 4000 + "\n") * 50
    assert done.stderr.splitlines() == [
        "cdt 0.2.0: train, digits.py -> runs/digits",
        *["y" * 4000] * 50,
    ]


def test_a_stream_that_a_test_or_notebook_has_set_stays(monkeypatch):
    mine = io.StringIO()
    monkeypatch.setattr(sys, "stdout", mine)
    console.open_console()
    assert sys.stdout is mine


def test_lines_have_no_prefix_after_a_library_has_configured_logging():
    program = (
        "import logging; logging.warning('from a library')\n"
        "from cdt.monitoring import console\n"
        "console.open_console(); console.start('export', 'digits.py', 'runs/digits', 0)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    lines = done.stderr.splitlines()
    assert lines == ["WARNING:root:from a library", "cdt 0.2.0: export, digits.py -> runs/digits"]
