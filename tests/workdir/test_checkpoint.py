"""Checkpoints: bitwise round trips on any mesh, and detection of damaged files."""

import logging
import shutil
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from cdt.errors import UserError
from cdt.workdir import manifest
from cdt.workdir.checkpoint import Checkpointer
from checkpoint_items import META, abstract, assert_same, make_items, mesh_of, save, shardings

# If one file cannot be read or written, Orbax abandons the coroutines of the other files.
pytestmark = pytest.mark.filterwarnings(
    "ignore::pytest.PytestUnraisableExceptionWarning",
    "ignore:coroutine .* was never awaited:RuntimeWarning",
)


def restore(directory):
    checkpoints = Checkpointer(directory, keep=3)
    try:
        return checkpoints.restore_latest(abstract(make_items(0)))
    finally:
        checkpoints.close()


@pytest.fixture(scope="module")
def two_steps(tmp_path_factory):
    """A directory with steps 10 and 20; copy it before changing anything."""
    directory = tmp_path_factory.mktemp("two_steps") / "checkpoints"
    save(directory, 10, 20)
    return directory


@pytest.fixture
def copy_of_two_steps(two_steps, tmp_path):
    return shutil.copytree(two_steps, tmp_path / "checkpoints")


@pytest.mark.parametrize("devices", [1, 4, 8])
def test_round_trip_is_bitwise_on_any_mesh(tmp_path, devices):
    items = make_items(5, devices=4)
    checkpoints = Checkpointer(tmp_path / "checkpoints", keep=1)
    checkpoints.save(5, items, META)
    step, restored, meta = checkpoints.restore_latest(abstract(items, devices))
    checkpoints.close()
    assert (step, meta) == (5, META)
    assert_same(restored, items)
    wanted = jax.tree.leaves(shardings(items, devices))
    assert [x.sharding for x in jax.tree.leaves(restored)] == wanted


def test_nothing_saved_is_none_and_reading_creates_nothing(tmp_path):
    checkpoints = Checkpointer(tmp_path / "checkpoints", keep=1)
    assert checkpoints.latest_step() is None
    assert checkpoints.read_meta() is None
    assert checkpoints.restore_latest({}) is None
    with pytest.raises(UserError, match="There is no checkpoint in .*; train first"):
        checkpoints.restore_items({})
    assert not (tmp_path / "checkpoints").exists()


def test_a_relative_directory_works(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    save("checkpoints", 1)
    assert restore("checkpoints")[0] == 1


def test_arrays_may_be_donated_as_soon_as_save_returns(tmp_path):
    step = jax.jit(lambda x: x * 1.5 + 1.0, donate_argnums=0)
    x = jax.device_put(jnp.ones((8, 200_000)), NamedSharding(mesh_of(8), PartitionSpec("fsdp")))
    expected = np.array(x)
    checkpoints = Checkpointer(tmp_path, keep=1)
    checkpoints.save(1, {"params": {"x": x}}, {})
    for _ in range(3):
        x = step(x)
    x.block_until_ready()
    like = {"params": {"x": jax.ShapeDtypeStruct(x.shape, x.dtype)}}
    _, items, _ = checkpoints.restore_latest(like)
    checkpoints.close()
    np.testing.assert_array_equal(items["params"]["x"], expected)


def test_only_the_newest_are_kept_and_saves_need_not_be_waited_for(tmp_path):
    save(tmp_path, 1, 2, 3, 4, keep=2)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["3", "4"]


def test_a_step_saved_already_is_left_as_it_is(copy_of_two_steps):
    before = {p: p.read_bytes() for p in copy_of_two_steps.rglob("*") if p.is_file()}
    checkpoints = Checkpointer(copy_of_two_steps, keep=3)
    checkpoints.save(20, make_items(99), {})
    checkpoints.close()
    assert before == {p: p.read_bytes() for p in copy_of_two_steps.rglob("*") if p.is_file()}


def test_a_save_that_orbax_drops_silently_is_an_error(copy_of_two_steps):
    checkpoints = Checkpointer(copy_of_two_steps, keep=3)
    with pytest.raises(RuntimeError, match="Step 15 was not saved: .* already has step 20"):
        checkpoints.save(15, make_items(15), {})
    checkpoints.close()


def test_leftovers_of_a_killed_save_are_ignored_and_then_removed(copy_of_two_steps):
    leftover = copy_of_two_steps / "30.orbax-checkpoint-tmp"
    shutil.copytree(copy_of_two_steps / "20", leftover)
    assert restore(copy_of_two_steps)[0] == 20
    assert leftover.exists()
    save(copy_of_two_steps, 30)
    assert not leftover.exists()
    assert restore(copy_of_two_steps)[0] == 30


def test_only_the_items_asked_for_are_read(copy_of_two_steps):
    for item in ("params", "opt", "timesteps"):
        shutil.rmtree(copy_of_two_steps / "20" / item)
    expected = make_items(20)["ema"]
    checkpoints = Checkpointer(copy_of_two_steps, keep=3)
    step, items, meta = checkpoints.restore_items({"ema": abstract(expected, 8)})
    assert (step, list(items), meta["step"]) == (20, ["ema"], 20)
    assert_same(items["ema"], expected)
    step, items, _ = checkpoints.restore_items({"ema": abstract(expected)}, step=10)
    assert step == 10
    assert_same(items["ema"], make_items(10)["ema"])
    checkpoints.close()


def test_without_a_sharding_arrays_come_to_the_first_device(two_steps):
    like = {"ema": jax.eval_shape(lambda: make_items(0)["ema"])}
    checkpoints = Checkpointer(two_steps, keep=3)
    _, items, _ = checkpoints.restore_items(like)
    checkpoints.close()
    assert {d for x in jax.tree.leaves(items) for d in x.devices()} == {jax.devices()[0]}


def test_meta_is_read_alone(two_steps):
    checkpoints = Checkpointer(two_steps, keep=3)
    assert checkpoints.read_meta() == META | {"step": 20}
    assert checkpoints.read_meta(10) == META | {"step": 10}
    assert checkpoints.latest_step() == 20
    with pytest.raises(UserError, match="no checkpoint of step 15 in .*it has the steps 20, 10"):
        checkpoints.read_meta(15)
    checkpoints.close()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda p: p["blocks"].update(kernel=jnp.zeros((8, 25))), "kernel is float32.8,24. in the"),
        (lambda p: p.update(head=jnp.zeros((16, 4))), "params/head is bfloat16.* and float32"),
        (lambda p: p.update(more=jnp.zeros(1)), "params/more is missing in the checkpoint"),
        (lambda p: p.pop("head"), r"params/head is bfloat16\[16,4\] .* missing in this run"),
    ],
)
def test_another_model_is_distinguished_from_damage(copy_of_two_steps, change, words):
    items = make_items(0)
    change(items["params"])
    checkpoints = Checkpointer(copy_of_two_steps, keep=3)
    with pytest.raises(UserError, match=f"step 20 in .* does not match the config: .*{words}"):
        checkpoints.restore_latest(abstract(items))
    checkpoints.close()
    assert sorted(path.name for path in copy_of_two_steps.iterdir()) == ["10", "20"]


def test_a_newer_schema_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(manifest, "CHECKPOINT_SCHEMA", 2)
    save(tmp_path, 1)
    monkeypatch.undo()
    with pytest.raises(
        UserError, match="has schema 2, but this version of cdt reads schemas up to 1"
    ):
        restore(tmp_path)


def array_files(step_directory) -> list:
    """Every file with elements of arrays."""
    return sorted(p for p in step_directory.rglob("*") if p.is_file() and p.parent.name == "d")


def other_files(step_directory) -> list:
    """The files that describe the step, its meta and its params (an example of all items)."""
    described = [step_directory / "meta", step_directory / "params"]
    paths = [*step_directory.iterdir(), *(path for item in described for path in item.rglob("*"))]
    return sorted(path for path in paths if path.is_file() and path.parent.name != "d")


def check_exact_or_set_aside(directory, caplog) -> bool:
    """Assert that the state is exact or the step is renamed; return whether it was renamed."""
    caplog.clear()
    step, items, _ = restore(directory)
    assert_same(items, make_items(step))
    aside = [path.name for path in directory.glob("corrupt-*")]
    lines = [r.getMessage() for r in caplog.records if r.levelno == logging.WARNING]
    if step == 20:
        assert not aside and not lines
        return False
    assert step == 10
    assert not (directory / "20").exists()
    assert len(aside) == 1 and aside[0].startswith("corrupt-20-")
    assert len(lines) == 1 and aside[0] in lines[0] and "step 10 is used" in lines[0]
    return True


def damaged_copy(two_steps, tmp_path, path, damage):
    """A new copy of `two_steps` with `damage` applied to the file `path`."""
    directory = tmp_path / "checkpoints"
    shutil.rmtree(directory, ignore_errors=True)
    shutil.copytree(two_steps, directory)
    damage(directory / path.relative_to(two_steps))
    return directory


def flip_bit(position: float):
    def damage(path):
        content = bytearray(path.read_bytes())
        content[int(position * (len(content) - 1))] ^= 1 << int(position * 100) % 8
        path.write_bytes(content)

    return damage


def truncate(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


@pytest.mark.slow
def test_a_flipped_bit_in_any_file_gives_the_exact_state_or_the_one_before(
    two_steps, tmp_path, caplog
):
    rejected = []
    files = array_files(two_steps / "20")
    assert len(files) >= 10
    for index, path in enumerate(files + other_files(two_steps / "20")):
        position = (index * 0.37 + 0.11) % 1.0
        directory = damaged_copy(two_steps, tmp_path, path, flip_bit(position))
        if check_exact_or_set_aside(directory, caplog):
            rejected.append(path)
    assert rejected  # otherwise nothing was tested


@pytest.mark.long  # nine restores; a flipped bit takes the same way
@pytest.mark.parametrize(
    "damage",
    [
        pytest.param(truncate, id="truncated"),
        pytest.param(lambda path: path.write_bytes(b""), id="emptied", marks=pytest.mark.slow),
        pytest.param(lambda path: path.unlink(), id="removed", marks=pytest.mark.slow),
    ],
)
def test_lost_data_gives_the_exact_state_or_the_one_before(two_steps, tmp_path, caplog, damage):
    step = two_steps / "20"
    paths = [path for path in array_files(step) if path.parents[1].parent == step]  # merged ones
    assert len(paths) >= 6
    for path in [*paths, step / "meta" / "metadata"]:
        directory = damaged_copy(two_steps, tmp_path, path, damage)
        assert check_exact_or_set_aside(directory, caplog), path
    for item in ("opt", "meta"):
        directory = damaged_copy(two_steps, tmp_path, step / item, shutil.rmtree)
        assert check_exact_or_set_aside(directory, caplog), item


def test_a_bit_flipped_unseen_by_orbax_is_found(copy_of_two_steps, monkeypatch, caplog):
    """Without Orbax's own checks: the restored arrays have one flipped bit."""
    original = Checkpointer._read

    def flipping(self, step, read):
        restored = original(self, step, read)
        if step == 20 and "opt" in restored:
            leaves, treedef = jax.tree.flatten(restored["opt"])
            bits = np.array(leaves[-1])
            bits.reshape(-1).view(np.uint8)[3] ^= 4
            leaves[-1] = jax.device_put(bits, leaves[-1].sharding)
            restored["opt"] = jax.tree.unflatten(treedef, leaves)
        return restored

    monkeypatch.setattr(Checkpointer, "_read", flipping)
    assert check_exact_or_set_aside(copy_of_two_steps, caplog)
    assert "does not match its checksum" in caplog.text and "opt/" in caplog.text


def test_saving_continues_after_a_damaged_step_was_renamed(copy_of_two_steps):
    truncate(copy_of_two_steps / "20" / "meta" / "metadata")
    checkpoints = Checkpointer(copy_of_two_steps, keep=3)
    assert checkpoints.restore_latest(abstract(make_items(0)))[0] == 10
    for step in (15, 20):
        checkpoints.save(step, make_items(step), META)
    checkpoints.close()
    step, items, _ = restore(copy_of_two_steps)
    assert step == 20
    assert_same(items, make_items(20))
    assert len(list(copy_of_two_steps.glob("corrupt-20-*"))) == 1


def test_a_reader_skips_a_damaged_step_and_renames_nothing(copy_of_two_steps, caplog):
    truncate(copy_of_two_steps / "20" / "meta" / "metadata")
    checkpoints = Checkpointer(copy_of_two_steps, keep=3)
    like = {"ema": abstract(make_items(0)["ema"])}
    assert checkpoints.restore_items(like)[0] == 10
    assert "It is skipped; step 10 is used" in caplog.text
    assert checkpoints.read_meta()["step"] == 10
    with pytest.raises(
        UserError, match="step 20 in .* is damaged .*restore its folder from a backup"
    ):
        checkpoints.restore_items(like, step=20)
    checkpoints.close()
    assert sorted(path.name for path in copy_of_two_steps.iterdir()) == ["10", "20"]


def test_if_all_are_damaged_the_run_does_not_start_from_scratch(copy_of_two_steps):
    for step in ("10", "20"):
        truncate(copy_of_two_steps / step / "meta" / "metadata")
    for _ in range(2):
        with pytest.raises(UserError, match="has no intact checkpoint .*step 20: .*step 10: "):
            restore(copy_of_two_steps)
    assert sorted(path.name for path in copy_of_two_steps.iterdir()) == ["10", "20"]
    for step in ("10", "20"):
        (copy_of_two_steps / step).rename(copy_of_two_steps / f"corrupt-{step}-then")
    with pytest.raises(UserError, match="corrupt-10-then; corrupt-20-then"):
        restore(copy_of_two_steps)


PROGRAM = """
import pathlib, sys
import jax
from absl import logging
from cdt.workdir.checkpoint import Checkpointer
logging.set_verbosity(logging.INFO)
checkpoints = Checkpointer(sys.argv[1], keep=2)
items = {"params": {name: jax.random.normal(jax.random.key(0), (99, 99)) for name in "abcdefgh"}}
checkpoints.save(1, items, {})
checkpoints.save(2, items, {})
checkpoints.wait()
if sys.argv[2] == "damaged":
    files = pathlib.Path(sys.argv[1]).glob("2/params/ocdbt.process_0/d/*")
    largest = max(files, key=lambda file: file.stat().st_size)
    largest.write_bytes(largest.read_bytes()[: largest.stat().st_size // 2])
checkpoints.restore_latest(items)
checkpoints.close()
"""


@pytest.mark.parametrize("state", ["whole", "damaged"])
def test_the_user_sees_no_orbax_messages_except_one_line_about_damage(tmp_path, state):
    command = [sys.executable, "-c", PROGRAM, str(tmp_path / "checkpoints"), state]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "")
    if state == "whole":
        assert done.stderr == ""
    else:
        assert done.stderr.count("The checkpoint of step 2 in") == 1, done.stderr
