"""Several real processes of one run on this machine, connected over 127.0.0.1."""

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

from cpu_devices import xla_flags

ROOT = Path(__file__).parents[1]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Processes:
    """Runs `python *command` in `count` processes; the context manager ends all of them.

    Args:
      command: arguments of every process, without the flags that connect them.
      count: number of processes; 1: without these flags.
      folder: for their output.
      devices: simulated devices of each process.
      extra: {process: more arguments}.
      cwds: {process: its working directory}.
      slurm: connect them with the variables of an `srun` with one task a node, not with flags.
    """

    def __init__(self, command, count, folder, devices=1, extra=None, cwds=None, slurm=False):
        self.port = free_port()
        self.folder = Path(folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        environment = os.environ | {
            "JAX_PLATFORMS": "cpu",
            "XLA_FLAGS": xla_flags(devices),
            "PYTHONPATH": f"{ROOT}",
            "PYTHONUNBUFFERED": "1",
        }
        self.processes = []
        for k in range(count):
            # JAX derives the port from the job number in this way.
            environment |= {
                "SLURM_JOB_ID": str(self.port), "SLURM_STEP_NODELIST": "localhost",
                "SLURM_NTASKS": str(count), "SLURM_STEP_NUM_TASKS": str(count),
                "SLURM_PROCID": str(k), "SLURM_LOCALID": "0",
                "SLURM_STEP_TASKS_PER_NODE": f"1(x{count})",
            } if slurm else {}  # fmt: skip
            joined = [f"--coordinator=127.0.0.1:{self.port}", f"--num_processes={count}",
                      f"--process_id={k}"]  # fmt: skip
            joined = joined if count > 1 and not slurm else []
            arguments = [*command, *joined, *(extra or {}).get(k, [])]
            with open(self.folder / f"out{k}", "w") as out, open(self.folder / f"err{k}", "w") as e:
                self.processes.append(
                    subprocess.Popen(
                        [sys.executable, *arguments],
                        cwd=(cwds or {}).get(k, ROOT),
                        env=environment,
                        stdout=out,
                        stderr=e,
                    )  # fmt: skip
                )

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        for process in self.processes:
            if process.poll() is None:
                process.kill()
                process.wait()

    def wait(self, timeout=240) -> list[int]:
        """The exit codes."""
        end = time.monotonic() + timeout
        return [p.wait(timeout=max(0.1, end - time.monotonic())) for p in self.processes]

    def out(self, k) -> str:
        return (self.folder / f"out{k}").read_text()

    def err(self, k) -> str:
        return (self.folder / f"err{k}").read_text()

    def sentences(self, k) -> list[str]:
        """The messages of cdt, without those of libraries."""
        return [line[5:] for line in self.err(k).splitlines() if line.startswith("cdt: ")]

    def wait_for(self, words, k=0, timeout=120) -> None:
        end = time.monotonic() + timeout
        while words not in self.err(k):
            assert time.monotonic() < end, self.err(k)
            assert self.processes[k].poll() is None, self.err(k)
            time.sleep(0.05)

    def send(self, number: signal.Signals, k) -> None:
        self.processes[k].send_signal(number)


def training(workdir, cache, *arguments) -> list[str]:
    """Arguments of a small run with all parts: 12 steps, checkpoints after 6 and 12."""
    return [
        "-m", "cdt.main", f"--config={ROOT}/configs/digits.py:smoke", f"--workdir={workdir}",
        f"--config.compilation_cache={cache}", "--config.model.depth=1", "--config.sample.num=4",
        "--config.sample.steps=1", "--config.ema.decays=(0.9,)", "--config.optim.warmup=2 steps",
        "--config.curriculum.num_clusters=2", "--config.train.duration=12 steps",
        "--config.checkpoint.every=6 steps", "--config.validation.every=6 steps",
        "--config.log.every=3 steps", "--config.mesh.min_shard_size=256", *arguments,
    ]  # fmt: skip
