"""Damaged checkpoints of a real run: the state is exact, or the checkpoint before it is used.

Damage of each file in each way, of each field of the manifest, and of half a step.
"""

import json
import logging
import os
import re
import shutil
import subprocess
import sys
import zlib
from collections import Counter
from pathlib import Path

import jax
import numpy as np
import pytest

from cdt.errors import UserError
from cdt.modes import train as loop
from cdt.training.state import to_items
from cdt.workdir.checkpoint import Checkpointer
from cdt.workdir.manifest import CHECKPOINT_SCHEMA
from faults.make_version_fixture import parts_of
from smoke_runs import arrays, assert_same_arrays, smoke

ROOT = Path(__file__).parents[2]
RUN = {"checkpoint.every": "6 steps", "checkpoint.keep": 4}
NEWEST, BEFORE = 24, 18


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """The workdir of a run with steps 6, 12, 18 and 24; copy it before changing anything."""
    workdir = tmp_path_factory.mktemp("undisturbed")
    assert loop.train(smoke(**RUN), str(workdir)) == 0
    return workdir


@pytest.fixture(scope="module")
def abstract():
    parts, _ = parts_of(smoke(**RUN))
    return to_items(jax.eval_shape(parts.init, jax.random.key(0)))


@pytest.fixture(scope="module")
def states(undisturbed, abstract):
    """{step: leaves}"""
    checkpoints = Checkpointer(undisturbed / "checkpoints", keep=4)
    return {step: leaves(checkpoints.restore_items(abstract, step)[1]) for step in (BEFORE, NEWEST)}


def leaves(items):
    return [np.asarray(leaf) for leaf in jax.tree.leaves(items)]


class Matrix:
    """Damages copies one after the other and checks the result of each.

    Attributes:
      outcomes: number of "exact" and of "rejected" states, by kind of damage.
    """

    def __init__(self, undisturbed, abstract, states, folder, caplog):
        self._from = undisturbed / "checkpoints"
        self._to = folder / "checkpoints"
        self._abstract, self._states, self._caplog = abstract, states, caplog
        self.outcomes = Counter()

    def files(self):
        """Every file of the newest step, relative to it."""
        step = self._from / str(NEWEST)
        return sorted(path.relative_to(step) for path in step.rglob("*") if path.is_file())

    def manifest(self):
        return json.loads((self._from / str(NEWEST) / "meta" / "metadata").read_text())

    def check(self, kind, damage):
        """Return whether the state was exact in spite of the damage.

        Args:
          damage: function of the folder of the newest step. Files there are hard links: it must
            replace them, not write to them.
        """
        shutil.rmtree(self._to, ignore_errors=True)
        for step in (BEFORE, NEWEST):
            shutil.copytree(self._from / str(step), self._to / str(step), copy_function=os.link)
        damage(self._to / str(NEWEST))
        self._caplog.clear()
        step, items, _ = Checkpointer(self._to, keep=4).restore_latest(self._abstract)
        for found, saved in zip(leaves(items), self._states[step], strict=True):
            assert found.dtype == saved.dtype and found.tobytes() == saved.tobytes(), kind
        aside = [path.name for path in self._to.glob("corrupt-*")]
        lines = [r.getMessage() for r in self._caplog.records if r.levelno >= logging.WARNING]
        if step == NEWEST:
            assert not aside and not lines
        else:
            assert re.fullmatch(rf"corrupt-{NEWEST}-\d{{8}}T\d{{6}}\.\d+", aside[0])
            assert not (self._to / str(NEWEST)).exists() and len(aside) == 1
            assert len(lines) == 1 and aside[0] in lines[0]
            assert f"step {BEFORE} is used" in lines[0]
        self.outcomes[kind, "exact" if step == NEWEST else "rejected"] += 1
        return step == NEWEST


@pytest.fixture
def matrix(undisturbed, abstract, states, tmp_path, caplog, frozen_heap):
    return Matrix(undisturbed, abstract, states, tmp_path, caplog)


def replace(path, content):
    path.unlink()
    path.write_bytes(content)


def flip(relative, position, bit):
    def damage(step):
        content = bytearray((step / relative).read_bytes())
        content[position] ^= 1 << bit
        replace(step / relative, content)

    return damage


@pytest.mark.slow
def test_each_file_in_each_way(matrix, undisturbed):
    random = np.random.default_rng(0)
    files = matrix.files()
    needed = {"removed": set(), "emptied": set()}
    for relative in files:
        size = (undisturbed / "checkpoints" / str(NEWEST) / relative).stat().st_size
        for _ in range(3 if size else 0):
            position, bit = int(random.integers(size)), int(random.integers(8))
            matrix.check("flipped", flip(relative, position, bit))
        length = int(random.integers(size)) if size else 0
        matrix.check(
            "truncated", lambda s, r=relative, n=length: replace(s / r, (s / r).read_bytes()[:n])
        )
        if not matrix.check("emptied", lambda s, r=relative: replace(s / r, b"")):
            needed["emptied"].add(relative)
        if not matrix.check("removed", lambda s, r=relative: (s / r).unlink()):
            needed["removed"].add(relative)
    outcomes = matrix.outcomes
    print(f"{len(files)} files: {dict(outcomes)}")
    # `check` has asserted that every case is exact or rejected. This asserts that damage was found.
    # Orbax never reads some of its files, and their number depends on its threads. It always reads
    # the manifest, the root of each item's store, and a file with the leaves of each item.
    assert outcomes.total() >= 3 * len(files) and len(files) > 20
    items = {path.parts[0] for path in files if len(path.parts) > 1} - {"meta"}
    assert len(items) == 6
    for found in needed.values():
        assert Path("meta", "metadata") in found
        for item in items:
            assert Path(item, "manifest.ocdbt") in found
            assert any(path.parts[0] == item and path.parent.name == "d" for path in found)
    for kind in ("flipped", "truncated"):
        assert outcomes[kind, "rejected"] >= len(needed["removed"])


@pytest.mark.slow
def test_half_of_the_newest_step_is_deleted(matrix):
    files = matrix.files()
    for seed in range(20):
        chosen = np.random.default_rng(seed).permutation(len(files))[: len(files) // 2]
        matrix.check("half", lambda s, c=chosen: [(s / files[i]).unlink() for i in c])
    assert matrix.outcomes == {("half", "rejected"): 20}


def write_manifest(manifest, seal=False):
    """Change the manifest and keep it readable; `seal` also updates its checksum."""
    if seal:
        content = {name: value for name, value in manifest.items() if name != "crc32"}
        text = json.dumps(content, sort_keys=True, separators=(",", ":"))
        manifest = content | {"crc32": zlib.crc32(text.encode())}
    return lambda s: replace(s / "meta" / "metadata", json.dumps(manifest).encode())


@pytest.mark.slow
def test_each_field_of_the_manifest(matrix):
    fields = matrix.manifest().keys()
    assert fields == {"schema", "versions", "types", "checksums", "meta", "crc32"}
    for field in fields:
        missing, changed, emptied = (matrix.manifest() for _ in range(3))
        del missing[field]
        emptied[field] = None
        value = changed[field]
        changed[field] = value + 1 if isinstance(value, int) else value | {"more": 1}
        for manifest in (missing, changed, emptied):
            matrix.check("field", write_manifest(manifest))
    for text in ("", "{", "[]", "null", "7", json.dumps(matrix.manifest())[:-1]):
        matrix.check("text", lambda s, t=text: replace(s / "meta" / "metadata", t.encode()))
    for item, paths in matrix.manifest()["checksums"].items():
        wrong = matrix.manifest()
        wrong["checksums"][item][next(iter(paths))] ^= 1
        matrix.check("checksum", write_manifest(wrong, seal=True))
    assert matrix.outcomes == {
        ("field", "rejected"): 18, ("text", "rejected"): 6, ("checksum", "rejected"): 6
    }  # fmt: skip


@pytest.mark.long  # a run to be damaged
@pytest.mark.parametrize(
    ("change", "told"),
    [
        (
            lambda m: m.update(schema=CHECKPOINT_SCHEMA + 1),
            f"has schema {CHECKPOINT_SCHEMA + 1}, but this version of cdt reads",
        ),
        (lambda m: m["types"]["counters"].update(step="int8[]"), "counters/step is int8"),
    ],
)
def test_a_mismatch_is_refused_and_nothing_is_renamed(matrix, change, told):
    manifest = matrix.manifest()
    change(manifest)
    with pytest.raises(UserError, match=told):
        matrix.check("refused", write_manifest(manifest, seal=True))
    assert sorted(path.name for path in matrix._to.iterdir()) == [str(BEFORE), str(NEWEST)]


@pytest.mark.slow
def test_the_program_continues_from_the_newest_good_step(undisturbed, tmp_path):
    """Two damaged steps: both are renamed, and saving continues from an earlier step."""
    workdir = tmp_path / "run"
    shutil.copytree(undisturbed, workdir)
    checkpoints = workdir / "checkpoints"
    largest = max(
        (checkpoints / "24" / "params").rglob("d/*"), key=lambda path: path.stat().st_size
    )
    flip(largest.relative_to(checkpoints / "24"), largest.stat().st_size // 2, 3)(
        checkpoints / "24"
    )
    shutil.rmtree(checkpoints / "18" / "opt")
    done = subprocess.run(
        [sys.executable, "-m", "cdt.main", "--config=configs/digits.py:smoke",
         f"--workdir={workdir}", "--config.checkpoint.every=6 steps", "--config.checkpoint.keep=4"],
        cwd=ROOT, env=os.environ, capture_output=True, text=True, check=False, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "resuming at step 12 of 24" in done.stdout and "Traceback" not in done.stderr
    lines = [line for line in done.stderr.splitlines() if "is damaged" in line]
    assert len(lines) == 2 and all("step 12 is used" in line for line in lines)
    names = sorted(path.name for path in checkpoints.iterdir())
    assert names[:4] == ["12", "18", "24", "6"]
    assert [name[:11] for name in names[4:]] == ["corrupt-18-", "corrupt-24-"]
    assert_same_arrays(arrays(workdir), arrays(undisturbed))
