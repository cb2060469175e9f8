"""tpu_create.sh, tpu_status.sh, tpu_delete.sh and their settings."""

import shlex

import pytest

from launch_fakes import NOT_FOUND

WHERE = ["--project=my-project", "--zone=us-east5-a"]
REQUEST = ["gcloud", "compute", "tpus", "queued-resources"]
WHAT = ["--accelerator-type=v6e-16", "--runtime-version=v2-alpha-tpuv6e"]
SCRIPTS = ["tpu_create.sh", "tpu_status.sh", "tpu_delete.sh"]


def describe_request():
    return [*REQUEST, "describe", "r1", *WHERE, "--format=value(state.state)"]


def describe_node(node):
    words = ["gcloud", "compute", "tpus", "tpu-vm", "describe", node]
    return [*words, *WHERE, "--format=value(state)"]


def test_create_requests_one_spot_slice(launch):
    assert launch.run("tpu_create.sh").returncode == 0
    assert launch.calls() == [[*REQUEST, "create", "r1", *WHERE, *WHAT, "--node-id=r1", "--spot"]]


def test_create_requests_several_slices_on_demand(launch):
    flags = "--network=mine  --labels=a=b"
    assert launch.run("tpu_create.sh", NUM_SLICES="3", SPOT="0", CREATE_FLAGS=flags).returncode == 0
    nodes = ["--node-count=3", "--node-prefix=r1"]
    flags = ["--network=mine", "--labels=a=b"]
    assert launch.calls() == [[*REQUEST, "create", "r1", *WHERE, *WHAT, *nodes, *flags]]


def test_create_prints_the_message_of_gcloud(launch):
    launch.answer("create", {"code": 1, "stderr": "no quota\n"})
    result = launch.run("tpu_create.sh")
    assert (result.returncode, result.stderr) == (1, "no quota\n")


def test_delete(launch):
    assert launch.run("tpu_delete.sh").returncode == 0
    assert launch.calls() == [[*REQUEST, "delete", "r1", *WHERE, "--force", "--quiet"]]


@pytest.mark.parametrize(
    ("request_state", "node_states", "state"),
    [
        ("ACTIVE", ["READY", "READY"], "ready"),
        ("ACTIVE", ["READY", "PREEMPTED"], "lost"),
        ("ACTIVE", ["TERMINATED", "REPAIRING"], "lost"),
        ("ACTIVE", ["READY", NOT_FOUND], "lost"),
        ("ACTIVE", ["REPAIRING", "READY"], "waiting"),
        ("ACTIVE", ["READY", {"code": 1, "stderr": "no network"}], "unknown"),
        ("SUSPENDED", None, "lost"),
        ("FAILED", None, "lost"),
        ("SUSPENDING", None, "waiting"),
        ("WAITING_FOR_RESOURCES", None, "waiting"),
        (NOT_FOUND, None, "absent"),
        ({"code": 1, "stderr": "no network"}, None, "unknown"),
    ],
)
def test_status(launch, request_state, node_states, state):
    launch.answer("queued-resources describe", request_state)
    launch.answer("tpu-vm describe", *(node_states or ()))
    result = launch.run("tpu_status.sh", NUM_SLICES="2")
    assert result.stdout.startswith(f"{state}: queued resource r1: ")
    assert result.returncode == (0 if state == "ready" else 1)
    assert ("no network" in result.stderr) == (state == "unknown")
    nodes = [describe_node("r1-0"), describe_node("r1-1")] if node_states else []
    assert launch.calls() == [describe_request(), *nodes]


@pytest.mark.parametrize("script", SCRIPTS)
@pytest.mark.parametrize("num_slices", ["1", "2"])
def test_a_dry_run_prints_what_would_be_called(launch, script, num_slices):
    # A value that a shell would split.
    settings = {"NUM_SLICES": num_slices, "RUNTIME_VERSION": "a b'c"}
    dry = launch.run(script, "--dry-run", **settings)
    assert (dry.returncode, dry.stderr, launch.calls()) == (0, "", [])
    launch.answer("queued-resources describe", "ACTIVE")
    launch.answer("tpu-vm describe", "READY")
    assert launch.run(script, **settings).returncode == 0
    assert [shlex.split(line) for line in dry.stdout.splitlines()] == launch.calls()


@pytest.mark.parametrize("script", SCRIPTS)
def test_an_unknown_option_does_nothing(launch, script):
    result = launch.run(script, "--dryrun")
    assert result.returncode == 2
    assert result.stderr == "launch: '--dryrun' is not an option; the only one is --dry-run.\n"
    assert launch.calls() == []


@pytest.mark.parametrize("script", [*SCRIPTS, "tpu_run.sh"])
@pytest.mark.parametrize("name", ["PROJECT", "ZONE", "NAME", "ACCELERATOR_TYPE", "RUNTIME_VERSION"])
def test_an_unset_setting_is_a_sentence(launch, script, name):
    result = launch.run(script, **{name: None})
    assert result.returncode != 0
    assert f"{name}: is not set; give " in result.stderr
    assert f"export {name}=" in result.stderr
    assert len(result.stderr.splitlines()) == 1
    assert launch.calls() == []


@pytest.mark.parametrize(
    "setting", [{"NUM_SLICES": "two"}, {"NUM_SLICES": "0"}, {"SPOT": "yes"}, {"DELETE_AFTER": "no"}]
)
def test_a_wrong_setting_is_a_sentence(launch, setting):
    result = launch.run("tpu_create.sh", **setting)
    assert result.returncode == 2
    [(name, value)] = setting.items()
    assert f"{name} " in result.stderr and f"'{value}'" in result.stderr
    assert launch.calls() == []
