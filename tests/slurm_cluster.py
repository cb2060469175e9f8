"""A SLURM cluster on this machine: a controller and several nodes, each in its own namespaces.

Each host has its own hostname, processes and network, so a test can disconnect a node. They share
the file system and processors of this machine. Nothing outside the namespaces changes.
"""

import os
import shutil
import subprocess
import time
from pathlib import Path

CONTROLLER = "head"
ADDRESSES = {CONTROLLER: "10.77.0.1", "n1": "10.77.0.11", "n2": "10.77.0.12", "n3": "10.77.0.13"}
NODES = [host for host in ADDRESSES if host != CONTROLLER]
NODE_TIMEOUT = 10  # seconds after which SLURM counts a node as lost
# From Debian's packages. slurmctld and slurmd print the reason if they do not start.
COMMANDS = ("slurmctld", "slurmd", "sbatch", "srun", "scontrol", "unshare", "nsenter", "ip")

# Credentials expire after 5 s. A requeued job waits until those of its last start have expired.
CONF = """
ClusterName=trial
SlurmctldHost={controller}({address})
AuthType=auth/none
CredType=cred/none
AuthInfo=cred_expire=5
SlurmUser=root
SlurmdUser=root
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
SwitchType=switch/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
GresTypes=gpu
SlurmdTimeout={node_timeout}
KillWait=30
ReturnToService=2
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
{nodes}
PartitionName=main Nodes={names} Default=YES
"""
NODE = "NodeName={name} NodeAddr={address} CPUs=2 Gres=gpu:1"


def missing() -> str:
    """Return why this machine cannot run the cluster, or an empty string if it can."""
    absent = [command for command in COMMANDS if shutil.which(command) is None]
    if absent:
        return f"{', '.join(absent)}: not found"
    probe = ["unshare", "--net", "--uts", "--mount", "--pid", "--fork", "--mount-proc", "true"]
    return subprocess.run(probe, capture_output=True, text=True, check=False).stderr.strip()


class Host:
    """A host made of namespaces; the context manager ends all its processes."""

    def __init__(self, name: str, hosts_file: Path):
        self._init = subprocess.Popen(
            ["unshare", "--net", "--uts", "--mount", "--pid", "--fork", "--mount-proc",
             "--kill-child", "sh", "-c", 'echo $$; exec sleep infinity'],
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
        )  # fmt: skip
        assert self._init.stdout is not None
        assert self._init.stdout.readline() == b"1\n"  # it is now process 1 of its namespace
        children = Path(f"/proc/{self._init.pid}/task/{self._init.pid}/children")
        self.pid = int(children.read_text())
        self.call("sh", "-c", f"hostname {name} && mount --bind {hosts_file} /etc/hosts")
        self.call("ip", "link", "set", "lo", "up")

    def command(self, *words: str) -> list[str]:
        """The command that runs `words` on this host."""
        namespaces = ["--net", "--uts", "--mount", "--pid"]
        return ["nsenter", f"--target={self.pid}", *namespaces, *words]

    def call(self, *words: str, env: dict[str, str] | None = None) -> str:
        """Run `words` on this host and return the output; raise if they fail."""
        done = subprocess.run(
            self.command(*words), capture_output=True, text=True, check=False, env=env
        )
        assert done.returncode == 0, f"{words}: {done.stderr}"
        return done.stdout

    def end(self) -> None:
        self._init.kill()
        self._init.wait()


class Cluster:
    """SLURM on all hosts; the context manager ends all processes."""

    def __init__(self, folder: Path):
        assert not (reason := missing()), f"there can be no SLURM on this machine: {reason}"
        self.folder = folder
        (folder / "state").mkdir(parents=True)
        hosts_file = folder / "hosts"
        lines = [f"{address} {host}" for host, address in ADDRESSES.items()]
        hosts_file.write_text("\n".join(["127.0.0.1 localhost", *lines, ""]))
        nodes = [NODE.format(name=name, address=ADDRESSES[name]) for name in NODES]
        (folder / "slurm.conf").write_text(
            CONF.format(
                controller=CONTROLLER, address=ADDRESSES[CONTROLLER], folder=folder,
                node_timeout=NODE_TIMEOUT, nodes="\n".join(nodes), names=",".join(NODES),
            )
        )  # fmt: skip
        (folder / "gres.conf").write_text("Name=gpu File=/dev/null\n")
        (folder / "cgroup.conf").write_text("")
        self.environment = {"SLURM_CONF": str(folder / "slurm.conf")}
        self._hosts: dict[str, Host] = {}
        try:
            for name in ADDRESSES:
                self._hosts[name] = Host(name, hosts_file)
            self._connect()
            self._start_daemons()
        except BaseException:
            self.__exit__()
            raise

    def __enter__(self) -> "Cluster":
        return self

    def __exit__(self, *exception: object) -> None:
        for host in self._hosts.values():
            host.end()

    def _connect(self) -> None:
        """Create a bridge on the controller and a virtual cable to each host."""
        head = self._hosts[CONTROLLER]
        head.call("ip", "link", "add", "bridge", "type", "bridge")
        head.call("ip", "address", "add", f"{ADDRESSES[CONTROLLER]}/24", "dev", "bridge")
        head.call("ip", "link", "set", "bridge", "up")
        for name in NODES:
            node = self._hosts[name]
            # From outside, where the processes of both hosts are visible.
            subprocess.run(
                ["nsenter", f"--target={head.pid}", "--net", "ip", "link", "add", name, "type",
                 "veth", "peer", "name", "eth0", "netns", str(node.pid)],
                check=True,
            )  # fmt: skip
            head.call("ip", "link", "set", name, "master", "bridge", "up")
            node.call("ip", "address", "add", f"{ADDRESSES[name]}/24", "dev", "eth0")
            node.call("ip", "link", "set", "eth0", "up")

    def _start_daemons(self) -> None:
        daemons = {CONTROLLER: ["slurmctld", "-D"]} | {n: ["slurmd", "-D", "-N", n] for n in NODES}
        for name, words in daemons.items():
            with open(self.folder / f"{name}.log", "w") as log:
                subprocess.Popen(
                    self._hosts[name].command(*words), stdin=subprocess.DEVNULL, stdout=log,
                    stderr=log, env=os.environ | self.environment,
                )  # fmt: skip
        self.wait_until(lambda: set(self.states().values()) == {"idle"}, 60, "all nodes are idle")

    def call(self, *words: str, **environment: str) -> str:
        """Run a SLURM command on the controller and return its output."""
        everything = os.environ | self.environment | environment
        return self._hosts[CONTROLLER].call(*words, env=everything)

    def states(self) -> dict[str, str]:
        """The states of the nodes as sinfo prints them: idle, alloc, down*, ..."""
        try:
            lines = self.call("sinfo", "--noheader", "--Node", "--format=%N %t").splitlines()
        except AssertionError:  # the controller does not answer yet
            return {}
        return {name: state for name, state in (line.split() for line in lines)}

    def submit(self, *words: str, **environment: str) -> str:
        """Submit a job and return its number."""
        return self.call("sbatch", "--parsable", *words, **environment).strip()

    def job(self, number: str) -> dict[str, str]:
        """The output of `scontrol show job`."""
        words = self.call("scontrol", "--oneliner", "show", "job", number).split()
        return dict(word.split("=", 1) for word in words if "=" in word)

    def plug(self, node: str, *, into: bool) -> None:
        """Disconnect a node, or connect it again."""
        self._hosts[CONTROLLER].call("ip", "link", "set", node, "up" if into else "down")

    @staticmethod
    def wait_until(condition, seconds: float, what: str) -> None:
        end = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < end, f"not within {seconds} seconds: {what}"
            time.sleep(0.2)
