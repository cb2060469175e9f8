"""slurm.sbatch, called in the same way as SLURM calls it."""

import shlex
import signal
import time

import pytest

ARGUMENTS = [
    "--config=configs/digits.py",
    "--workdir=/shared/run",
    """--config.x=("a b", "it's")""",
]
SRUN = ["srun", "--kill-on-bad-exit=0", "--wait=0", "python", "-m", "cdt.main", *ARGUMENTS]
REQUEUE = ["scontrol", "requeue", "17"]


@pytest.fixture
def job(launch):
    launch.environment |= {"SLURM_JOB_ID": "17", "NODE_LOSS_SECONDS": "0"}
    return launch


def wait_for_call(job):
    end = time.monotonic() + 20
    while not job.calls():
        assert time.monotonic() < end
        time.sleep(0.02)


@pytest.mark.parametrize("code", [0, 2, 3])
def test_the_program_has_ended(job, code):
    job.answer("srun", {"code": code, "stderr": "cdt: a sentence\n" if code else ""})
    result = job.run("slurm.sbatch", *ARGUMENTS)
    assert result.returncode == code
    assert job.calls() == [SRUN]
    if code:
        assert result.stderr.splitlines()[0] == "cdt: a sentence"


def test_75_is_requeued(job):
    job.answer("srun", {"code": 75})
    result = job.run("slurm.sbatch", *ARGUMENTS, PYTHON="/shared/venv/bin/python")
    assert job.calls() == [[*SRUN[:3], "/shared/venv/bin/python", *SRUN[4:]], REQUEUE]
    assert "in the queue again" in result.stderr


def test_75_that_cannot_be_requeued(job):
    job.answer("srun", {"code": 75})
    job.answer("scontrol", {"code": 1, "stderr": "disabled\n"})
    result = job.run("slurm.sbatch", *ARGUMENTS)
    assert result.returncode == 75
    assert "submit it again to continue" in result.stderr


def test_a_crash_ends_the_job(job):
    job.answer("srun", {"code": 134})
    assert job.run("slurm.sbatch", *ARGUMENTS).returncode == 134
    assert job.calls() == [SRUN]


def test_slurm_gets_the_time_to_detect_a_lost_node(job):
    # SLURM then ends the job and restarts it; the exit code of the script is ignored.
    job.answer("srun", {"code": 1})
    process = job.start("slurm.sbatch", *ARGUMENTS, NODE_LOSS_SECONDS="600")
    wait_for_call(job)
    time.sleep(0.5)
    assert process.poll() is None
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=20)
    assert job.calls() == [SRUN]


def test_a_cancelled_job_is_not_requeued(job, tmp_path):
    saved = tmp_path / "saved"
    job.answer("srun", {"code": 75, "wait_for": [str(saved)]})
    process = job.start("slurm.sbatch", *ARGUMENTS)
    wait_for_call(job)
    for _ in range(2):
        process.send_signal(signal.SIGTERM)
        time.sleep(0.2)
        assert process.poll() is None  # until the tasks have saved
    saved.touch()
    _, err = process.communicate(timeout=20)
    assert process.returncode == 75
    assert job.calls() == [SRUN]
    assert "SLURM ended the job" in err


def test_a_dry_run_prints_what_would_be_called(job):
    dry = job.run("slurm.sbatch", "--dry-run", *ARGUMENTS)
    assert (dry.returncode, job.calls()) == (0, [])
    job.answer("srun", {"code": 75})
    job.run("slurm.sbatch", *ARGUMENTS)
    printed = [line for line in dry.stdout.splitlines() if not line.startswith("#")]
    assert [shlex.split(line) for line in printed] == job.calls() == [SRUN, REQUEUE]


def test_without_a_job_it_prints_how_to_submit(job):
    result = job.run("slurm.sbatch", *ARGUMENTS, SLURM_JOB_ID=None)
    assert result.returncode != 0
    assert "SLURM_JOB_ID: is not set; submit this file: sbatch launch/" in result.stderr
    assert job.calls() == []


def test_slurm_reads_the_options(job):
    lines = (job.repository / "launch" / "slurm.sbatch").read_text().splitlines()
    before = lines[: lines.index("set -euo pipefail")]  # SLURM stops reading options here
    options = {line.removeprefix("#SBATCH ") for line in before if line.startswith("#SBATCH")}
    assert {"--signal=TERM@120", "--requeue", "--open-mode=append"} <= options
    assert all(line.startswith("#") for line in before)
