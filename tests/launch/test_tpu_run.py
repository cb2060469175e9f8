"""tpu_run.sh: its calls, and its reactions to exit codes, lost TPUs and signals."""

import os
import shlex
import signal
import time

import pytest

from launch_fakes import NOT_FOUND, without_id

RUN = ("tpu_run.sh", "--config=configs/digits.py", "--workdir=gs://bucket/run")
NO_ANSWER = {"code": 255, "stderr": "ssh: connect to host 10.0.0.1 port 22: timed out\n"}
BEGINNING = ["describe", "create", "describe", "describe"]  # of the request; then that of the node
START = ["scp", "install", "run"]


def ended(*codes, host="w", **more):
    """The output of workers whose programs ended with these codes."""
    lines = [f"\ncdt-exit {host}{i} {code}\n" for i, code in enumerate(codes)]
    return {"stdout": "".join(lines)} | more


def wait_until(condition, seconds=20):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


def test_it_asks_installs_and_runs(launch):
    launch.grant()
    launch.answer("worker.sh run", ended(0, 0))
    result = launch.run(*RUN)
    assert result.returncode == 0, result.stderr
    assert launch.kinds() == BEGINNING + START
    where = ["--project=my-project", "--zone=us-east5-a", "--worker=all"]
    alive = ["-oServerAliveInterval=30", "-oConnectTimeout=30"]
    vm = ["gcloud", "compute", "tpus", "tpu-vm"]
    send, install, run = launch.calls()[-3:]
    files = ["build/launch/r1.tar.gz", "r1:cdt-launch.tar.gz"]
    assert send == [*vm, "scp", *files, *where, *(f"--scp-flag={a}" for a in alive)]
    ssh = [*vm, "ssh", "r1", *where, *(f"--ssh-flag={a}" for a in alive)]
    assert install[:-1] == run[:-1] == ssh
    worker = "cdt-launch/source/launch/tpu_worker.sh"
    assert install[-1] == (
        f"--command=if [ -e {worker} ]; then bash {worker} stop; fi && rm -rf cdt-launch/source && "
        "mkdir -p cdt-launch/source && tar -xzf cdt-launch.tar.gz -C cdt-launch/source && "
        f"bash {worker} install"
    )
    assert run[-1] == f"--command=bash {worker} run 0.1 {RUN[1]} {RUN[2]}"


@pytest.mark.parametrize("num_slices", ["1", "2"])
@pytest.mark.parametrize("delete_after", ["0", "1"])
def test_a_dry_run_prints_what_would_be_called(launch, num_slices, delete_after):
    override = """--config.sample.prompts=("red heart", "it's a dog")"""
    settings = {
        "NUM_SLICES": num_slices,
        "DELETE_AFTER": delete_after,
        "SSH_FLAGS": "--internal-ip",
    }
    dry = launch.run(RUN[0], "--dry-run", *RUN[1:], override, **settings)
    assert (dry.returncode, dry.stderr, launch.calls()) == (0, "", [])
    assert not (launch.repository / "build").exists()
    make_folder, archive, *printed = (shlex.split(line) for line in dry.stdout.splitlines())
    assert make_folder == ["mkdir", "-p", "build/launch"]
    assert archive[:2] == ["git", "archive"] and archive[-1] == "HEAD"

    launch.grant()
    launch.answer("worker.sh run", ended(0))
    assert launch.run(*RUN, override, **settings).returncode == 0
    printed = [[without_id(word) for word in words] for words in printed]
    if num_slices == "1":
        assert printed == launch.calls()
    assert sorted(printed) == sorted(
        launch.calls()
    )  # slices get the command in parallel, in any order


def test_overrides_reach_the_program_unchanged(launch, worker):
    overrides = [
        """--config.sample.prompts=("red heart", "it's a dog")""",
        "--config.a=two  spaces and a \\ and $HOME and `id` and * and ~",
        "--config.b=",
        "--config.c=a\nb",
        "--config.d=ü;#!&|<>",
    ]
    launch.grant()
    launch.answer("scp", {"home": str(worker.home)})
    launch.answer("tpu-vm ssh", {"home": str(worker.home)})
    result = launch.run(*RUN, *overrides)
    assert result.returncode == 0, result.stderr
    assert worker.programs() == [[*RUN[1:], *overrides]]


def test_75_starts_again(launch):
    launch.grant()
    launch.answer("worker.sh run", ended(75, 75), ended(0, 75), ended(0, 0))
    result = launch.run(*RUN, MAX_CRASHES="0")
    assert result.returncode == 0, result.stderr
    look = ["describe", "describe"]
    assert launch.kinds() == BEGINNING + START + look + START + look + START
    commands = [argv[-1] for argv in launch.calls() if "worker.sh run" in argv[-1]]
    assert [c.partition(" run ")[2][:3] for c in commands] == ["0.1", "0.2", "0.3"]


@pytest.mark.parametrize("code", [2, 3])
@pytest.mark.parametrize("others", [(), (1, 0), (75, 134)])
def test_2_and_3_stop_with_the_message(launch, code, others):
    launch.grant()
    message = "cdt: --config is missing; give a config."
    output = ended(*others, code)["stdout"]
    launch.answer("worker.sh run", {"stdout": message + output})
    result = launch.run(*RUN)
    assert result.returncode == code
    assert message in result.stdout
    assert f"the run ended with exit code {code}" in result.stderr
    assert launch.kinds() == BEGINNING + START


def test_exit_code_2_of_gcloud_is_not_that_of_the_program(launch):
    launch.grant()
    launch.answer("worker.sh run", {"code": 2, "stderr": "unrecognized arguments\n"}, ended(0))
    assert launch.run(*RUN).returncode == 0
    assert launch.kinds().count("run") == 2


def test_crashes_restart_at_most_max_crashes_times_in_a_row(launch):
    launch.grant()
    crash = ended(75, 134, 75)  # the other workers lost the one that crashed
    launch.answer("worker.sh run", crash, crash, ended(75), crash, crash, crash)
    result = launch.run(*RUN, MAX_CRASHES="2")
    assert result.returncode == 134
    assert launch.kinds().count("run") == 6
    assert launch.kinds().count("create") == 1
    assert "crash 3 in a row" in result.stderr


def test_a_permanently_lost_connection_counts_as_a_crash(launch):
    launch.grant()
    launch.answer("worker.sh run", NO_ANSWER)
    result = launch.run(*RUN, MAX_CRASHES="1")
    assert result.returncode == 255
    assert launch.kinds().count("run") == 2
    assert "timed out" in result.stdout


def test_installing_is_tried_again(launch):
    launch.grant()
    launch.answer("worker.sh install", {"code": 1, "stderr": "no such package\n"}, {})
    launch.answer("worker.sh run", ended(0))
    assert launch.run(*RUN).returncode == 0
    look = ["describe", "describe"]
    assert launch.kinds() == BEGINNING + ["scp", "install"] + look + look + START


@pytest.mark.parametrize(
    ("request_states", "node_states"),
    [
        (["SUSPENDED", "SUSPENDED"], ["READY"]),
        (["SUSPENDING", "SUSPENDING", "SUSPENDED"], ["READY"]),
        (["FAILED", "FAILED"], ["READY"]),
        (["ACTIVE", "ACTIVE"], ["READY", "PREEMPTED", "PREEMPTED", "READY"]),
        (["ACTIVE", "ACTIVE"], ["READY", "TERMINATED", NOT_FOUND, "READY"]),
    ],
)
def test_a_lost_tpu_is_requested_again(launch, request_states, node_states):
    launch.answer("queued-resources describe", "ACTIVE", *request_states, NOT_FOUND, "ACTIVE")
    launch.answer("tpu-vm describe", *node_states)
    # A lost node also ends the programs on the other nodes.
    launch.answer("worker.sh run", ended(1, code=255), ended(0, 0))
    result = launch.run(*RUN, MAX_CRASHES="0")
    assert result.returncode == 0, result.stderr
    actions = [kind for kind in launch.kinds() if kind != "describe"]
    assert actions == [*START, "delete", "create", *START]


def test_a_node_that_is_repaired_is_waited_for(launch):
    launch.answer("queued-resources describe", "ACTIVE")
    launch.answer("tpu-vm describe", "READY", "REPAIRING", "REPAIRING", "READY")
    launch.answer("worker.sh run", NO_ANSWER, ended(0))
    assert launch.run(*RUN, MAX_CRASHES="0").returncode == 0
    actions = [kind for kind in launch.kinds() if kind != "describe"]
    assert actions == START + START


def test_a_network_that_is_down_is_waited_for(launch):
    down = {"code": 1, "stderr": "Temporary failure in name resolution\n"}
    launch.answer("queued-resources describe", "ACTIVE", down, down, "ACTIVE")
    launch.answer("tpu-vm describe", "READY")
    launch.answer("worker.sh run", NO_ANSWER, ended(0))
    assert launch.run(*RUN, MAX_CRASHES="0").returncode == 0
    assert launch.kinds().count("create") == 0


def test_a_tpu_that_was_deleted_elsewhere_stays_deleted(launch):
    launch.answer("queued-resources describe", "ACTIVE", NOT_FOUND)
    launch.answer("tpu-vm describe", "READY")
    launch.answer("worker.sh run", NO_ANSWER)
    result = launch.run(*RUN)
    assert result.returncode == 75
    assert "the TPU was deleted elsewhere" in result.stderr
    assert "create" not in launch.kinds()


def test_a_gcloud_that_never_answers_ends_the_script(launch):
    launch.answer("queued-resources describe", {"code": 1, "stderr": "no active account\n"})
    result = launch.run(*RUN)
    assert result.returncode == 1
    assert "no active account" in result.stderr
    assert launch.kinds() == ["describe"]


def test_a_request_that_is_refused_ends_the_script(launch):
    launch.answer("queued-resources describe", NOT_FOUND)
    launch.answer("create", {"code": 1, "stderr": "quota exceeded\n"})
    result = launch.run(*RUN)
    assert result.returncode == 1
    assert result.stderr.splitlines()[-2] == "quota exceeded"
    assert launch.kinds() == ["describe", "create"]


def test_a_request_that_fails_repeatedly_ends_the_script(launch):
    launch.answer("queued-resources describe", NOT_FOUND, *["FAILED", NOT_FOUND] * 2, "FAILED")
    result = launch.run(*RUN, MAX_CRASHES="2")
    assert result.returncode == 1
    assert launch.kinds().count("create") == 3


def test_all_slices_get_every_command_at_once(launch, tmp_path):
    launch.grant()
    launch.answer("worker.sh install")
    # Each waits for the other, so they must run in parallel.
    a, b = str(tmp_path / "a"), str(tmp_path / "b")
    launch.answer("ssh r1-0", ended(0, host="a", touch=[a], wait_for=[b]))
    launch.answer("ssh r1-1", ended(0, host="b", touch=[b], wait_for=[a]))
    result = launch.run(*RUN, NUM_SLICES="2")
    assert result.returncode == 0, result.stderr
    assert launch.kinds() == ["describe", "create"] + ["describe"] * 3 + [
        k for k in START for _ in "ab"
    ]
    log = launch.repository / "build" / "launch" / "r1-1.run.log"
    assert log.read_text() == "\ncdt-exit b0 0\n"


def test_a_slice_that_fails_is_enough(launch):
    launch.grant()
    launch.answer("ssh r1-1", {}, ended(3), ended(0))
    launch.answer("worker.sh run", ended(1))
    assert launch.run(*RUN, NUM_SLICES="2").returncode == 3


@pytest.mark.parametrize("code", [0, 2, 3, 1])
def test_the_tpu_is_deleted_with_delete_after(launch, code):
    launch.grant()
    launch.answer("worker.sh run", ended(code))
    result = launch.run(*RUN, DELETE_AFTER="1", MAX_CRASHES="0")
    assert result.returncode == code
    assert launch.kinds()[-1] == "delete"


@pytest.mark.parametrize("arguments", [(), ("--workdir=/home/me/run",), ("--workdir", "gs://b/r")])
def test_a_workdir_outside_a_bucket_is_refused(launch, arguments):
    result = launch.run("tpu_run.sh", *arguments)
    assert result.returncode == 2
    assert result.stderr.startswith("launch: --workdir=gs://BUCKET/DIR is missing")
    assert launch.calls() == []


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_lets_the_program_save(launch, tmp_path, number):
    told = str(tmp_path / "told")
    launch.grant()
    launch.answer("worker.sh run", ended(75, 75, wait_for=[told]))
    launch.answer("worker.sh stop 2", {"touch": [told]})
    process = launch.start(*RUN)
    wait_until(lambda: "run" in launch.kinds())
    process.send_signal(number)
    _, err = process.communicate(timeout=20)
    assert process.returncode == 75, err
    assert launch.kinds() == [*BEGINNING, *START, "stop"]
    assert launch.calls()[-1][-1].endswith("tpu_worker.sh stop 0.1")


def test_a_run_that_finishes_after_the_signal_has_finished(launch, tmp_path):
    told = str(tmp_path / "told")
    launch.grant()
    launch.answer("worker.sh run", ended(0, 0, wait_for=[told]))
    launch.answer("worker.sh stop 2", {"touch": [told]})
    process = launch.start(*RUN)
    wait_until(lambda: "run" in launch.kinds())
    process.terminate()
    process.communicate(timeout=20)
    assert process.returncode == 0


def children_of(pid):
    """Command lines of all processes in the session of a started script."""
    found = []
    for name in filter(str.isdigit, os.listdir("/proc")):
        try:
            if os.getsid(int(name)) == pid:
                with open(f"/proc/{name}/cmdline") as file:
                    found.append(file.read().replace("\0", " "))
        except OSError:
            pass
    return found


def test_a_second_signal_ends_at_once_and_leaves_no_process(launch, tmp_path):
    never = str(tmp_path / "never")
    launch.grant()
    launch.answer("worker.sh run", {"wait_for": [never]})
    launch.answer("worker.sh stop 2", {"wait_for": [never]})
    process = launch.start(*RUN)
    wait_until(lambda: "run" in launch.kinds())
    process.terminate()
    wait_until(lambda: "stop" in launch.kinds())
    process.terminate()
    _, err = process.communicate(timeout=20)
    assert process.returncode == 75
    assert "may still be running" in err
    wait_until(lambda: not children_of(process.pid))


def test_a_signal_while_waiting_for_the_tpu_ends_the_script(launch):
    launch.answer("queued-resources describe", "WAITING_FOR_RESOURCES")
    process = launch.start(*RUN, POLL_SECONDS="600")
    wait_until(lambda: "describe" in launch.kinds() and "sleep 600 " in children_of(process.pid))
    process.terminate()
    _, err = process.communicate(timeout=20)
    assert process.returncode == 75
    assert "the TPU still exists, delete it with launch/tpu_delete.sh" in err
    wait_until(lambda: not children_of(process.pid))


def test_uncommitted_changes_give_a_warning(launch):
    (launch.repository / "new.py").write_text("")
    launch.grant()
    launch.answer("worker.sh run", ended(0))
    assert "uncommitted changes are not sent" in launch.run(*RUN).stderr
