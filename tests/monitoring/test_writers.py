"""Metrics on disk: valid JSON, one history over kills and resumes, no lost line."""

import json
import logging
import math
import subprocess
import sys
import types

import jax
import numpy as np
import pytest

from cdt.errors import UserError
from cdt.monitoring import writers
from cdt.monitoring.writers import Writer, read_history


@pytest.fixture
def events(monkeypatch):
    """Fakes of TensorFlow and clu; returns the list of calls of the writer."""
    seen = []

    class SummaryWriter:
        def __init__(self, folder):
            seen.append(("open", folder))

        def write_scalars(self, step, values):
            seen.append((step, values))

        write_images = write_scalars

        def flush(self):
            seen.append("flush")

        def close(self):
            seen.append("close")

    config = types.SimpleNamespace(set_visible_devices=lambda *args: seen.append(args))
    clu = types.ModuleType("clu")
    clu.metric_writers = types.SimpleNamespace(SummaryWriter=SummaryWriter)
    monkeypatch.setitem(sys.modules, "tensorflow", types.SimpleNamespace(config=config))
    monkeypatch.setitem(sys.modules, "clu", clu)
    return seen


def lines(workdir) -> list[dict]:
    def refuse(token):
        raise AssertionError(f"{token} is not JSON")

    text = (workdir / "metrics.jsonl").read_text()
    assert text.endswith("\n")
    return [json.loads(line, parse_constant=refuse) for line in text.splitlines()]


def values(history: list[dict], name: str = "loss") -> list:
    return [(record["step"], record[name]) for record in history]


def test_every_write_is_a_line_on_disk_at_once(tmp_path):
    writer = Writer(tmp_path / "new", tensorboard=False)
    writer.scalars(np.int64(1), {"loss": np.float32(0.5), "loss/cluster_01": 2})
    (record,) = lines(tmp_path / "new")
    assert record.pop("time") > 1.7e9
    assert record == {"step": 1, "loss": 0.5, "loss/cluster_01": 2.0}
    writer.close()


def test_a_second_run_appends(tmp_path):
    for step in (1, 2):
        writer = Writer(tmp_path, tensorboard=False)
        writer.scalars(step, {"loss": step})
        writer.close()
    assert values(read_history(tmp_path)) == [(1, 1.0), (2, 2.0)]


def test_nan_and_inf_are_null_and_read_as_nan(tmp_path):
    writer = Writer(tmp_path, tensorboard=False)
    writer.scalars(1, {"nan": math.nan, "inf": -math.inf, "loss": 1.0})
    writer.close()
    (record,) = lines(tmp_path)
    assert (record["nan"], record["inf"], record["loss"]) == (None, None, 1.0)
    (record,) = read_history(tmp_path)
    assert math.isnan(record["nan"]) and math.isnan(record["inf"]) and record["loss"] == 1.0


def test_no_history_is_an_empty_one(tmp_path):
    assert read_history(tmp_path) == []
    (tmp_path / "metrics.jsonl").write_text("")
    assert read_history(tmp_path) == []


def test_a_resume_invalidates_later_lines(tmp_path):
    first = Writer(tmp_path, tensorboard=False)
    for step in (1, 2, 3, 4, 5):
        first.scalars(step, {"loss": step})
    second = Writer(tmp_path, tensorboard=False)
    second.start(3)
    for step in (4, 5, 6):
        second.scalars(step, {"loss": 10 * step})
    third = Writer(tmp_path, tensorboard=False)
    third.start(5)
    third.scalars(6, {"loss": 600})
    expected = [(1, 1.0), (2, 2.0), (3, 3.0), (4, 40.0), (5, 50.0), (6, 600.0)]
    assert values(read_history(tmp_path)) == expected
    assert [line["event"] for line in lines(tmp_path) if "event" in line] == ["resume", "resume"]
    for writer in (first, second, third):
        writer.close()


def test_the_time_between_a_stop_and_a_resume_is_subtracted(tmp_path):
    written = [
        {"step": 0, "time": 100.0},
        {"step": 5, "time": 110.0},
        {"step": 9, "time": 118.0},  # lost
        {"event": "resume", "step": 5, "time": 5000.0},
        {"step": 9, "time": 5008.0},
        {"event": "resume", "step": 9, "time": 90_000.0},
        {"step": 10, "time": 90_002.0},
    ]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(x) + "\n" for x in written))
    seconds = [record["time"] - 100.0 for record in read_history(tmp_path)]
    assert seconds == [0.0, 10.0, 18.0, 20.0]


def test_a_new_run_logs_no_resume(tmp_path):
    for expected in ([], ["resume"]):
        writer = Writer(tmp_path, tensorboard=False)
        writer.start(0)
        writer.scalars(0, {"loss": 1.0})
        writer.close()
        assert [line["event"] for line in lines(tmp_path) if "event" in line] == expected


def test_a_new_run_of_version_0_1_0_is_read(tmp_path):
    """It began with a resume at step 0."""
    (tmp_path / "metrics.jsonl").write_text(
        '{"event": "resume", "step": 0, "time": 1.0}\n{"step": 0, "time": 2.0, "loss": 3.0}\n'
        '{"step": 1, "time": 4.0, "loss": 2.0, "data_wait_share": 0.5}\n'
    )
    assert values(read_history(tmp_path)) == [(0, 3.0), (1, 2.0)]
    assert read_history(tmp_path)[1]["data_wait_fraction"] == 0.5


def test_starting_again_invalidates_everything(tmp_path):
    for loss in (1.0, 2.0):
        writer = Writer(tmp_path, tensorboard=False)
        writer.start(0)
        writer.scalars(0, {"loss": loss})
        writer.close()
    assert values(read_history(tmp_path)) == [(0, 2.0)]


@pytest.mark.parametrize("kept", range(1, 38))
def test_a_line_torn_by_a_kill_costs_only_itself(tmp_path, kept):
    path = tmp_path / "metrics.jsonl"
    torn = b'{"step": 2, "time": 8.0, "loss": 2.0}\n'[:kept]
    path.write_bytes(b'{"step": 1, "time": 7.0, "loss": 1.0}\n' + torn)
    whole = [(2, 2.0)] if kept == 37 else []
    assert values(read_history(tmp_path)) == [(1, 1.0), *whole]
    writer = Writer(tmp_path, tensorboard=False)
    writer.scalars(3, {"loss": 3.0})
    writer.close()
    assert values(read_history(tmp_path)) == [(1, 1.0), *whole, (3, 3.0)]


def test_a_workdir_that_cannot_be_written_to_raises_user_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be written to .*file.*another --workdir"):
        Writer(tmp_path / "file", tensorboard=False)


def test_a_full_disk_stops_nothing_and_lines_are_written_later(tmp_path, caplog):
    writer = Writer(tmp_path, tensorboard=False)
    disk, free = writer._lines._file, [20]

    class FullDisk:
        """Takes 20 more bytes, part of a line, and then none."""

        def write(self, content):
            if not free[0]:
                raise OSError(28, "No space left on device")
            taken = disk.write(content[: free[0]])
            free[0] -= taken
            return taken

    writer._lines._file = FullDisk()
    for step in (1, 2, 3):
        writer.scalars(step, {"loss": step})
    assert [r.getMessage() for r in caplog.records] == [
        "Metrics cannot be written ([Errno 28] No space left on device); training continues."
    ]
    assert read_history(tmp_path) == []
    writer._lines._file = disk
    writer.scalars(4, {"loss": 4})
    writer.close()
    assert values(read_history(tmp_path)) == [(n, float(n)) for n in (1, 2, 3, 4)]


def test_an_object_in_a_bucket_is_rewritten_at_intervals(tmp_path, monkeypatch):
    clock = [0.0]
    monkeypatch.setattr(writers.time, "monotonic", lambda: clock[0])
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(b'{"step": 1')
    remote = writers._RemoteLines(path)
    remote.write(b'{"step": 2, "time": 1}\n')
    assert path.read_bytes() == b'{"step": 1\n'
    clock[0] += writers._REMOTE_SECONDS
    remote.write(b'{"step": 3, "time": 1}\n')
    assert path.read_bytes() == b'{"step": 1\n{"step": 2, "time": 1}\n{"step": 3, "time": 1}\n'
    remote.write(b'{"step": 4, "time": 1}\n')
    remote.close()
    assert values(read_history(tmp_path), "step") == [(2, 2), (3, 3), (4, 4)]


def test_other_processes_write_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(jax, "process_index", lambda: 1)
    writer = Writer(tmp_path, tensorboard=True)
    writer.scalars(1, {"loss": 1.0})
    writer.images(1, {"samples": np.zeros((2, 2, 3), np.uint8)})
    writer.start(0)
    writer.start(1)
    writer.start_tensorboard()
    writer.close()
    assert list(tmp_path.iterdir()) == []


def test_tensorboard_gets_what_was_queued_and_what_follows_in_order(tmp_path, events):
    writer = Writer(tmp_path, tensorboard=True)
    image = np.zeros((8, 8, 1), np.uint8)
    writer.scalars(1, {"loss": 1.0})
    writer.images(1, {"samples": image})
    assert events == []
    writer.start_tensorboard()
    writer.scalars(2, {"loss": math.nan})
    writer.close()
    assert events[:2] == [([], "GPU"), ("open", str(tmp_path / "tensorboard"))]
    assert events[2:4] == [(1, {"loss": 1.0}), (1, {"samples": image})]
    assert events[4][0] == 2 and math.isnan(events[4][1]["loss"])
    assert events[5:] == ["close"]


def test_closing_before_tensorboard_was_started_does_not_import_it(tmp_path, events):
    writer = Writer(tmp_path, tensorboard=True)
    writer.scalars(1, {"loss": 1.0})
    writer.close()
    assert events == []
    assert values(read_history(tmp_path)) == [(1, 1.0)]


@pytest.mark.parametrize("missing", ["tensorflow", "clu"])
def test_without_tensorflow_one_warning_is_logged(tmp_path, events, monkeypatch, caplog, missing):
    monkeypatch.setitem(sys.modules, missing, None)  # importing it raises ImportError
    writer = Writer(tmp_path, tensorboard=True)
    writer.scalars(1, {"loss": 1.0})
    writer.start_tensorboard()
    for step in range(2, 100):
        writer.scalars(step, {"loss": step})
    writer.close()
    assert [record.levelno for record in caplog.records] == [logging.WARNING]
    assert caplog.messages[0].startswith("No events for TensorBoard (ModuleNotFoundError")
    assert values(read_history(tmp_path)) == [(n, float(n)) for n in range(1, 100)]


def test_a_writer_that_fails_does_not_fail_the_run(tmp_path, events, monkeypatch, caplog):
    def fail(self, step, values):
        raise OSError("No space left on device")

    monkeypatch.setattr(sys.modules["clu"].metric_writers.SummaryWriter, "write_scalars", fail)
    writer = Writer(tmp_path, tensorboard=True)
    writer.start_tensorboard()
    writer.scalars(1, {"loss": 1.0})
    writer.close()
    assert len(caplog.messages) == 1 and "No space left" in caplog.messages[0]
    assert values(read_history(tmp_path)) == [(1, 1.0)]


def test_importing_the_module_imports_neither_tensorflow_nor_clu():
    program = "import sys, cdt.monitoring.writers; print({'tensorflow', 'clu'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("set()\n", "")


PROGRAM = """
import sys
import numpy as np
from cdt.monitoring.writers import Writer
writer = Writer(sys.argv[1], tensorboard=True)
writer.scalars(1, {"loss": 0.5, "loss/cluster_01": 0.25})
writer.images(1, {"samples": np.full((4, 6, 3), 7, np.uint8)})
writer.start_tensorboard()
writer.scalars(2, {"loss": 0.125})
writer.images(2, {"grids": np.zeros((2, 4, 6, 1), np.uint8)})
writer.close()
"""

READER = """
import json, sys
from tensorboard.backend.event_processing.event_file_loader import EventFileLoader
from tensorboard.util import tensor_util
for event in EventFileLoader(sys.argv[1]).Load():
    for value in event.summary.value:
        array = tensor_util.make_ndarray(value.tensor)
        plain = array.item() if array.ndim == 0 else [x.decode("latin1")[1:4] for x in array]
        print(json.dumps([event.step, value.tag, plain]))
"""


@pytest.mark.slow
def test_tensorboard_reads_the_events(tmp_path):
    """With the real TensorFlow, in separate processes: about 10 s of a core."""
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(tmp_path)], capture_output=True, text=True
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    (path,) = (tmp_path / "tensorboard").iterdir()
    read = subprocess.run([sys.executable, "-c", READER, str(path)], capture_output=True, text=True)
    assert read.returncode == 0, read.stderr
    found = [json.loads(line) for line in read.stdout.splitlines()]
    # An image is [width, height, PNG, ...]; bytes 1 to 3 of a PNG are "PNG".
    assert [event for event in found if event[1].startswith("loss")] == [
        [1, "loss", 0.5],
        [1, "loss/cluster_01", 0.25],
        [2, "loss", 0.125],
    ]
    images = {(step, tag): value for step, tag, value in found if not tag.startswith("loss")}
    assert images[1, "samples"][2:] == ["PNG"]
    assert images[2, "grids"][2:] == ["PNG", "PNG"]
