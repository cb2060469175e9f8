"""Which variables say that a process is one of several."""

import importlib.util

import pytest

from cdt.devices import launcher

SLURM = {"SLURM_JOB_ID": "17", "SLURM_NTASKS": "8"}
GKE = {"KUBERNETES_SERVICE_HOST": "10.0.0.1"}


@pytest.fixture(params=[False, True], ids=["no libtpu", "libtpu"])
def libtpu(request, monkeypatch):
    real = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec",
        lambda name: (request.param or None) if name == "libtpu" else real(name),
    )  # fmt: skip
    return request.param


CASES = {
    "nothing": ({}, None, None),
    "in sbatch, outside of srun": (SLURM, None, None),
    "srun of one task": (SLURM | {"SLURM_STEP_NUM_TASKS": "1"}, None, None),
    "srun": (SLURM | {"SLURM_STEP_NUM_TASKS": "8"}, "SLURM", "SLURM"),
    "mpirun": ({"OMPI_COMM_WORLD_SIZE": "4"}, "Open MPI", "Open MPI"),
    "Job": (GKE, None, None),
    "Indexed Job": (GKE | {"JOB_COMPLETION_INDEX": "0"}, "Kubernetes", "Kubernetes"),
    "TPU machine of Cloud": ({"TPU_SKIP_MDS_QUERY": None}, None, "Cloud TPU"),
    "GKE, TPU of one host": (GKE | {"TPU_WORKER_HOSTNAMES": "localhost"}, None, None),
    "GKE, TPU of two": (GKE | {"TPU_WORKER_HOSTNAMES": "a,b"}, None, "Cloud TPU"),
    "GKE, slices of one host": (
        GKE | {"TPU_WORKER_HOSTNAMES": "localhost", "MEGASCALE_NUM_SLICES": "2"},
        None, "Cloud TPU",
    ),
    "JAX may not use the TPU": ({"TPU_SKIP_MDS_QUERY": None, "JAX_PLATFORMS": "cpu"}, None, None),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_the_cluster(case, libtpu, monkeypatch):
    variables, without, with_libtpu = CASES[case]
    # JAX sets the second where there is no TPU.
    for name, value in ({"JAX_PLATFORMS": None, "TPU_SKIP_MDS_QUERY": "1"} | variables).items():
        if value is None:
            monkeypatch.delenv(name, raising=False)
        else:
            monkeypatch.setenv(name, value)
    assert launcher.name() == (with_libtpu if libtpu else without)


@pytest.mark.parametrize(
    ("counts", "alone"),
    [("1(x4)", True), ("1", True), ("1,1(x3)", True), ("8(x2)", False), ("8(x2),1", False)],
)
def test_tasks_of_a_node(counts, alone, monkeypatch):
    monkeypatch.setenv("SLURM_STEP_TASKS_PER_NODE", counts)
    assert launcher.one_task_a_node() is alone
