"""launch/slurm.sbatch in a real SLURM cluster of three nodes, with real runs on two nodes."""

import re
import sys

import pytest

from cpu_devices import xla_flags
from host_processes import ROOT, training
from slurm_cluster import NODE_TIMEOUT, Cluster

HEARTBEAT = 10  # seconds
ENDLESS = ["--config.train.duration=100_000 steps", f"--heartbeat_seconds={HEARTBEAT}"]
STARTED = r"step \d+/100000"


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    with Cluster(tmp_path_factory.mktemp("slurm")) as cluster:
        yield cluster


class Job:
    """A job on two nodes."""

    def __init__(self, cluster, folder, *arguments, options=()):
        self.cluster, self.folder = cluster, folder
        environment = {
            "PYTHON": sys.executable, "JAX_PLATFORMS": "cpu", "XLA_FLAGS": xla_flags(1),
            "NODE_LOSS_SECONDS": str(3 * NODE_TIMEOUT),
        }  # fmt: skip
        command = training(folder / "a run", cluster.folder / "cache", *arguments)[2:]
        self.number = cluster.submit(
            "--nodes=2", f"--chdir={ROOT}", f"--output={folder / 'log'}", *options,
            str(ROOT / "launch" / "slurm.sbatch"), *command, **environment,
        )  # fmt: skip

    def log(self):
        path = self.folder / "log"
        return path.read_text() if path.exists() else ""

    def said(self, pattern):
        return re.findall(pattern, self.log())

    def wait_for(self, pattern, times=1, seconds=180):
        try:
            self.cluster.wait_until(
                lambda: len(self.said(pattern)) >= times, seconds, f"{times} times {pattern}"
            )
        except AssertionError as error:
            raise AssertionError(f"{error}\n{self.log()}\n{self.show()}") from None

    def show(self):
        return self.cluster.job(self.number)

    def ends_as(self, state, exit_code=None):
        ended = {"COMPLETED", "FAILED", "CANCELLED", "NODE_FAIL", "TIMEOUT"}
        self.cluster.wait_until(lambda: self.show()["JobState"] in ended, 180, "the job has ended")
        shown = self.show()
        assert shown["JobState"] == state, self.log()
        assert exit_code in (None, shown["ExitCode"]), self.log()


def test_two_nodes_train_one_run(cluster, tmp_path):
    job = Job(cluster, tmp_path)
    job.ends_as("COMPLETED", "0:0")
    assert job.show()["NodeList"] == "n[1-2]"
    assert job.said("Rank 0 is connected to 1 peer")
    assert len(job.said("step 12/12")) == 1  # process 0 prints, and no other
    assert job.log().endswith("launch: the run is finished.\n")


def test_two_tasks_a_node(cluster, tmp_path):
    job = Job(cluster, tmp_path, options=["--ntasks-per-node=2"])
    job.ends_as("COMPLETED", "0:0")
    assert job.said("Rank 0 is connected to 3 peer")


def test_a_wrong_value_ends_the_job(cluster, tmp_path):
    job = Job(cluster, tmp_path, "--config.optim.lr=-1.0")
    job.ends_as("FAILED", "2:0")
    assert len(job.said("cdt: config.optim.lr is -1.0")) == 2
    assert "launch: the run ended with exit code 2; see its message above." in job.log()


def test_a_job_saves_before_its_time_limit_and_continues_until_cancelled(cluster, tmp_path):
    job = Job(cluster, tmp_path, *ENDLESS, options=["--time=3", "--signal=TERM@60"])
    job.wait_for("launch: the run was saved; the job is in the queue again.")
    (saved,) = job.said(r"stopped by a signal and saved at step (\d+);")
    assert job.said(STARTED)
    job.wait_for(rf"resuming at step {saved} of 100000")
    assert job.show()["Restarts"] == "1"

    started = len(job.said(STARTED))
    job.wait_for(STARTED, times=started + 1)
    cluster.call("scancel", job.number)
    job.wait_for("launch: SLURM ended the job; if SLURM does not requeue it,")
    job.ends_as("CANCELLED")
    assert len(job.said("stopped by a signal and saved at step")) == 2
    assert job.show()["Restarts"] == "1"


# n1 runs the batch script and process 0.
@pytest.mark.parametrize("lost", ["n2", "n1"])
def test_a_lost_node_is_replaced(cluster, tmp_path, lost):
    job = Job(cluster, tmp_path, *ENDLESS)
    saved = tmp_path / "a run" / "checkpoints"
    cluster.wait_until(
        lambda: saved.exists() and any(step.name.isdigit() for step in saved.iterdir()),
        180, "a checkpoint is there",
    )  # fmt: skip
    try:
        cluster.plug(lost, into=False)
        job.wait_for(r"resuming at step \d+ of 100000")
        nodes = "n[1,3]" if lost == "n2" else "n[2-3]"
        assert (job.show()["NodeList"], job.show()["Restarts"]) == (nodes, "1")
        started = len(job.said(STARTED))
        job.wait_for(STARTED, times=started + 1)
        cluster.call("scancel", job.number)
        job.ends_as("CANCELLED")
    finally:
        cluster.plug(lost, into=True)
        cluster.wait_until(
            lambda: set(cluster.states().values()) == {"idle"}, 60, "all nodes are idle"
        )
