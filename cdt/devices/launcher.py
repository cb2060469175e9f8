"""The cluster that started this process as one of several, from its environment variables.

`jax.distributed.initialize` finds the processes of each of these clusters by itself. It is called
only if there may be several processes, because it fails without a cluster.
"""

import importlib.util
import os
import re


def name() -> str | None:
    """Return the cluster in whose job this process may be one of several; None if it is alone."""
    env = os.environ
    if int(env.get("SLURM_STEP_NUM_TASKS", "1")) > 1:  # of this `srun`
        return "SLURM"
    if int(env.get("OMPI_COMM_WORLD_SIZE", "1")) > 1:
        return "Open MPI"
    if _several_tpu_hosts():
        return "Cloud TPU"
    if "KUBERNETES_SERVICE_HOST" in env and "JOB_COMPLETION_INDEX" in env:  # of an Indexed Job
        return "Kubernetes"
    return None


def process_id() -> int:
    """Return the number that the cluster gave this process; 0 if it is alone or gets none.

    For what happens before JAX has joined the processes; after that, `jax.process_index()`.
    """
    variables = {
        "SLURM": "SLURM_PROCID",
        "Open MPI": "OMPI_COMM_WORLD_RANK",
        "Cloud TPU": "TPU_WORKER_ID",
        "Kubernetes": "JOB_COMPLETION_INDEX",
    }
    return int(os.environ.get(variables.get(name() or "", ""), "0"))


def one_task_a_node() -> bool:
    """Return whether SLURM runs one task per node, which then has all GPUs of the node."""
    counts = os.environ.get("SLURM_STEP_TASKS_PER_NODE", "")  # such as 1(x4), or 8(x2),4
    return set(re.sub(r"\(x\d+\)", "", counts).split(",")) == {"1"}


def _several_tpu_hosts() -> bool:
    """Return whether this host may have a part of a larger TPU that JAX may use."""
    env = os.environ
    platforms = env.get("JAX_PLATFORMS", "")
    if (platforms and "tpu" not in platforms) or importlib.util.find_spec("libtpu") is None:
        return False
    hosts = env.get("TPU_PROCESS_ADDRESSES", env.get("TPU_WORKER_HOSTNAMES"))
    if hosts is not None:
        return "," in hosts or int(env.get("MEGASCALE_NUM_SLICES", "1")) > 1
    # Elsewhere only the machine's metadata has this, which JAX reads. Importing JAX has set this
    # variable if there is no TPU.
    return "TPU_SKIP_MDS_QUERY" not in env
