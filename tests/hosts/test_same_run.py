"""A run in several real processes equals the run in one process."""

import json
import shutil

import numpy as np
import pytest

from cdt.monitoring.writers import read_history
from host_processes import Processes, training


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return tmp_path_factory.mktemp("hosts")


def run(root, name, count, *arguments):
    """Train in root/name; return the processes, which have ended."""
    command = training(root / name, root / "cache", *arguments)
    with Processes(command, count, root / f"{name}-output") as processes:
        codes = processes.wait()
    assert codes == [0] * count, processes.err(0) + processes.err(count - 1)
    return processes


@pytest.fixture(scope="module")
def one(root):
    """A run in one process."""
    run(root, "one", 1, "--config.evaluate.every=12 steps")
    return root / "one"


@pytest.fixture(scope="module")
def two(root):
    """(workdir, processes) of the same run in two processes."""
    processes = run(root, "two", 2, "--config.evaluate.every=12 steps")
    return root / "two", processes


def histories(workdir, after=0):
    """{(step, name): value} of all losses after a step."""
    return {
        (record["step"], name): value
        for record in read_history(workdir)
        for name, value in record.items()
        if "loss" in name and record["step"] > after
    }


def assert_same_losses(workdir, expected, after=0):
    found, expected = histories(workdir, after), histories(expected, after)
    assert found.keys() == expected.keys()
    assert len({value for (_, name), value in found.items() if name == "loss"}) == (12 - after) // 3
    for key, value in expected.items():
        np.testing.assert_allclose(found[key], value, rtol=1e-6, err_msg=str(key))


@pytest.mark.long  # three programs, started and trained; test_exchange has what they exchange
def test_two_processes_train_as_one(one, two):
    workdir, _ = two
    assert_same_losses(workdir, one)
    one_last, two_last = (
        {k: v for r in read_history(w) for k, v in r.items() if k.startswith("evaluation")}
        for w in (one, workdir)
    )
    assert one_last.keys() == two_last.keys() and len(one_last) >= 4
    for name, value in one_last.items():
        np.testing.assert_allclose(two_last[name], value, rtol=1e-3, err_msg=name)


@pytest.mark.long  # of the same runs
def test_only_process_0_writes_and_prints(two):
    workdir, processes = two
    lines = [json.loads(x) for x in (workdir / "metrics.jsonl").read_text().splitlines()]
    logged = [(x["step"], tuple(x)) for x in lines]
    assert len(logged) == len(set(logged))
    assert "finished; samples, convergence.png and metrics" in processes.out(0)
    assert "step 12/12" in processes.err(0)
    assert (processes.out(1), processes.err(1)) == ("", "")
    assert len(list((workdir / "samples").iterdir())) == 1
    assert (workdir / "convergence.png").exists()


@pytest.mark.slow
def test_two_processes_resume_as_one(root, one, two):
    shutil.copytree(two[0], root / "two-one")
    shutil.rmtree(root / "two-one" / "checkpoints" / "12")
    processes = run(root, "two-one", 1)
    assert "resuming at step 6 of 12" in processes.out(0)
    assert_same_losses(root / "two-one", one, after=6)


@pytest.mark.slow
def test_two_processes_resume_as_four_past_a_damaged_checkpoint(root, one, two):
    workdir = shutil.copytree(two[0], root / "two-four")
    (manifest,) = (workdir / "checkpoints" / "12" / "meta").glob("metadata")
    manifest.write_bytes(manifest.read_bytes()[:-20])
    processes = run(
        root,
        "two-four",
        4,
        "--config.mesh.data=1",
        "--config.mesh.fsdp=4",
        "--config.mesh.min_shard_size=256",
    )
    assert "resuming at step 6 of 12" in processes.out(0)
    assert_same_losses(workdir, one, after=6)
    names = sorted(path.name for path in (workdir / "checkpoints").iterdir())
    assert len(names) == 3 and names[:2] == ["12", "6"] and names[2].startswith("corrupt-12-")
    assert "The checkpoint of step 12 in" in processes.err(0)
    assert [processes.err(k) for k in (1, 2, 3)] == [""] * 3


@pytest.mark.slow
def test_two_processes_sample(root, two):
    workdir, _ = two
    command = training(workdir, root / "cache", "--mode=sample", "--config.sample.num=5")
    with Processes(command, 2, root / "sample-output") as processes:
        assert processes.wait() == [0, 0], processes.err(0)
    with np.load(workdir / "samples" / "step_12" / "samples.npz") as arrays:
        assert arrays["arr_0"].shape == (5, 8, 8, 1) and arrays["arr_1"].tolist() == [0, 1, 2, 3, 4]
    assert "samples.npz: step 12" in processes.out(0) and processes.out(1) == ""
