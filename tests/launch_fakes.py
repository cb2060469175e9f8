"""A copy of launch/ in a separate repository, and fakes of the commands that it calls.

The fakes are first on PATH. They record their arguments, and give the answers that a test sets.
"""

import ast
import marshal
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
SETTINGS = {
    "PROJECT": "my-project",
    "ZONE": "us-east5-a",
    "NAME": "r1",
    "ACCELERATOR_TYPE": "v6e-16",
    "RUNTIME_VERSION": "v2-alpha-tpuv6e",
    "POLL_SECONDS": "0",
}
NOT_FOUND = {"code": 1, "stderr": "ERROR: (gcloud) NOT_FOUND: Resource 'r1' was not found\n"}

# Its file `answers` is a list of [words, [answer, ...]], see Launch.answer.
FAKE = r"""#!{python} -IS
import fcntl, marshal, os, sys, time

folder = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
argv = [os.path.basename(__file__), *sys.argv[1:]]
with open(folder + "/lock", "w") as lock:
    fcntl.flock(lock, fcntl.LOCK_EX)
    with open(folder + "/calls", "a") as file:
        file.write(repr(argv) + "\n")
    with open(folder + "/answers", "rb") as file:
        answers = marshal.load(file)
    answer = {{}}
    for words, queue in answers:
        if words in " ".join(argv):
            answer = queue.pop(0) if len(queue) > 1 else queue[0]
            break
    with open(folder + "/answers", "wb") as file:
        marshal.dump(answers, file)
for path in answer.get("touch", []):
    open(path, "w").close()
for path in answer.get("wait_for", []):
    while not os.path.exists(path):
        time.sleep(0.02)
sys.stdout.write(answer.get("stdout", ""))
sys.stderr.write(answer.get("stderr", ""))
sys.stdout.flush()
code = answer.get("code", 0)
if "home" in answer:  # what the worker would do
    import shutil, subprocess
    home = answer["home"]
    if "scp" in argv:
        shutil.copy(argv[argv.index("scp") + 1], home + "/cdt-launch.tar.gz")
    else:
        command = [a for a in argv if a.startswith("--command=")][0].partition("=")[2]
        environment = dict(os.environ, HOME=home, PATH=home + "/bin:" + os.environ["PATH"])
        code = subprocess.call(["bash", "-c", command], cwd=home, env=environment)
sys.exit(code)
"""


def make_repository(folder: Path) -> Path:
    """Create a repository with the current scripts."""
    shutil.copytree(ROOT / "launch", folder / "launch")
    (folder / "requirements.txt").write_text("jax\n")
    (folder / ".gitignore").write_text("/build/\n")
    identity = ("-c", "user.name=t", "-c", "user.email=t@t", "-c", "commit.gpgsign=false")
    for command in (
        ("init", "-q", "--template="),
        ("add", "-A"),
        (*identity, "commit", "-qm", "x"),
    ):
        subprocess.run(["git", *command], cwd=folder, check=True)
    return folder


def _hear_signals() -> None:
    """Restore signals that are ignored, as under nohup: bash cannot trap ignored signals."""
    for number in (signal.SIGINT, signal.SIGHUP, signal.SIGTERM):
        signal.signal(number, signal.SIG_DFL)


class Launch:
    """Runs the scripts and reads the recorded calls."""

    def __init__(self, folder: Path, repository: Path):
        self.repository = folder / "repository"
        self._fakes = folder / "fakes"
        shutil.copytree(repository, self.repository)
        (self._fakes / "bin").mkdir(parents=True)
        for name in ("gcloud", "srun", "scontrol"):
            path = self._fakes / "bin" / name
            path.write_text(FAKE.format(python=sys.executable))
            path.chmod(0o755)
        self.environment = SETTINGS | {
            "PATH": f"{self._fakes / 'bin'}:{os.environ['PATH']}",
            "HOME": str(folder),
        }
        self._answers = []
        self.answer("nothing")

    def answer(self, words: str, *answers) -> None:
        """Set the answers of commands that contain `words`, in order; the last one is repeated.

        An answer is a string (the output) or a dict: stdout, stderr, code, files to `touch`, files
        to `wait_for` after that, or the `home` of a worker in which the command is run.
        """
        answers = [{"stdout": a + "\n"} if isinstance(a, str) else a for a in answers]
        self._answers.append([words, answers or [{}]])
        (self._fakes / "answers").write_bytes(marshal.dumps(self._answers))

    def start(self, script: str, *arguments: str, **settings) -> subprocess.Popen:
        """Start a script with settings; None unsets one."""
        environment = {k: v for k, v in (self.environment | settings).items() if v is not None}
        return subprocess.Popen(
            ["bash", f"launch/{script}", *arguments],
            cwd=self.repository,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
            preexec_fn=_hear_signals,
        )

    def run(self, script: str, *arguments: str, **settings) -> subprocess.CompletedProcess:
        process = self.start(script, *arguments, **settings)
        out, err = process.communicate(timeout=30)
        return subprocess.CompletedProcess(process.args, process.returncode, out, err)

    def calls(self) -> list[list[str]]:
        """The commands called so far; the ID of a start is shown as 0.1, 0.2, ..."""
        path = self._fakes / "calls"
        lines = path.read_text().splitlines() if path.exists() else []
        return [[without_id(word) for word in ast.literal_eval(line)] for line in lines]

    def kinds(self) -> list[str]:
        """The calls as one word each: describe, create, delete, scp, install, run, stop."""
        kinds = []
        for argv in self.calls():
            command = next((a for a in argv if a.startswith("--command=")), None)
            if command is None:
                kinds.append(argv[4])
            else:
                kinds.append(re.findall(r"tpu_worker.sh (\w+)", command)[-1])
        return kinds

    def grant(self) -> None:
        """Answer as if there is no TPU at first, and a requested one is granted and stays."""
        self.answer("queued-resources describe", NOT_FOUND, "ACTIVE")
        self.answer("tpu-vm describe", "READY")


def without_id(text: str) -> str:
    return re.sub(r"\b\d{14}-\d+\.", "0.", text)


# python3 of a worker image: `pip install --target=uv uv` installs a fake uv. It creates an
# environment whose python is the fake program.
PYTHON3 = r"""#!/bin/sh
echo "python3 $*" >>"{home}/installed"
mkdir -p uv/bin && cp "{home}/uv" uv/bin/uv
"""
UV = r"""#!/bin/sh
echo "uv $*" >>"{home}/installed"
[ "$1" = venv ] && mkdir -p venv/bin && cp "{home}/program" venv/bin/python
exit 0
"""
# The fake program: the file `behaviour` sets how it ends.
PROGRAM = r"""#!{python} -IS
import os, signal, sys, time

home = "{home}"
with open(home + "/programs", "a") as file:
    file.write(repr([os.getcwd(), *sys.argv[1:]]) + "\n")
stopped = []
def stop(*_):
    with open(home + "/signals", "a") as file:
        file.write("TERM\n")
    stopped.append(1)
signal.signal(signal.SIGTERM, stop)
print("a line of output", flush=True)
with open(home + "/behaviour") as file:
    behaviour = file.read()
if behaviour.isdigit():
    sys.exit(int(behaviour))
open(home + "/ready", "w").close()
end = time.monotonic() + 20
while time.monotonic() < end and not (stopped and behaviour == "saves"):
    time.sleep(0.02)
print("stopped by a signal and saved", flush=True)
sys.exit(75)
"""


class Worker:
    """The home folder of a TPU worker, with fakes of python3, uv and the program."""

    def __init__(self, home: Path, repository: Path):
        self.home = home
        (home / "bin").mkdir(parents=True)
        for path, text in (("bin/python3", PYTHON3), ("uv", UV), ("program", PROGRAM)):
            (home / path).write_text(text.format(home=home, python=sys.executable))
            (home / path).chmod(0o755)
        self.environment = {"HOME": str(home), "PATH": f"{home / 'bin'}:{os.environ['PATH']}"}
        shutil.copytree(repository, home / "cdt-launch" / "source")
        self.behave("0")

    def behave(self, behaviour: str) -> None:
        """Set the behaviour: an exit code, or "saves" or "hangs" after TERM."""
        (self.home / "behaviour").write_text(behaviour)

    def start(self, *arguments: str, **settings: str) -> subprocess.Popen:
        return subprocess.Popen(
            ["bash", "cdt-launch/source/launch/tpu_worker.sh", *arguments],
            cwd=self.home,
            env=self.environment | settings,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            preexec_fn=_hear_signals,
        )

    def run(self, *arguments: str, **settings: str) -> tuple[int, str]:
        process = self.start(*arguments, **settings)
        out, _ = process.communicate(timeout=30)
        return process.returncode, out

    def lines(self, name: str) -> list[str]:
        path = self.home / name
        return path.read_text().splitlines() if path.exists() else []

    def programs(self) -> list[list[str]]:
        """The arguments after `-m cdt.main` of each start of the program."""
        programs = []
        for line in self.lines("programs"):
            folder, *arguments = ast.literal_eval(line)
            assert folder == str(self.home / "cdt-launch" / "source")
            assert arguments[:2] == ["-m", "cdt.main"]
            programs.append(arguments[2:])
        return programs
