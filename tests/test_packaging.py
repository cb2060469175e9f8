"""The result of `pip install`: the package, the configs, and a command that works anywhere."""

import configparser
import email
import os
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from cdt import __version__

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """Build the wheel from a copy of the tracked files, because a build leaves folders behind."""
    source, out = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    listed = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"]
    names = subprocess.run(listed, cwd=ROOT, capture_output=True, check=True, text=True).stdout
    for name in names.strip("\0").split("\0"):
        if (ROOT / name).is_file() and not name.startswith("tests/"):
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            (source / name).write_bytes((ROOT / name).read_bytes())
    build = [sys.executable, "-m", "build", "--no-isolation", "--wheel", "--sdist", "--outdir", out]
    done = subprocess.run([*build, source], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return next(out.glob("*.whl"))


def test_every_package_is_listed():
    settings = configparser.ConfigParser()
    settings.read(ROOT / "setup.cfg")
    listed = set(settings["options"]["packages"].split())
    folders = {path.parent.relative_to(ROOT) for path in (ROOT / "cdt").rglob("*.py")}
    assert listed == {".".join(folder.parts) for folder in folders} | {"cdt.configs"}


def test_the_wheel_is_small_and_holds_package_and_configs(wheel):
    assert wheel.stat().st_size < 2_000_000
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    ours = {f"cdt/{path.relative_to(ROOT / 'cdt')}" for path in (ROOT / "cdt").rglob("*.py")}
    ours |= {f"cdt/configs/{path.name}" for path in (ROOT / "configs").glob("*.py")}
    assert ours | {"cdt/py.typed"} <= names
    assert not [name for name in names if name.startswith(("tests/", "benchmarks/"))]


def test_the_extras_that_the_quickstart_names(wheel):
    with zipfile.ZipFile(wheel) as archive:
        name = next(name for name in archive.namelist() if name.endswith("/METADATA"))
        metadata = email.message_from_bytes(archive.read(name))
    extras = {"gpu", "tpu", "text", "eval", "interop"}
    assert extras | {"dev", "peers"} <= set(metadata.get_all("Provides-Extra"))
    page = (ROOT / "docs/quickstart.md").read_text()
    assert all(re.search(rf"[`\[]{extra}[`\]]", page) for extra in extras)


def test_its_metadata_is_clean(wheel):
    files = sorted(wheel.parent.iterdir())
    assert len(files) == 2  # and the source
    check = [sys.executable, "-m", "twine", "check", "--strict", *files]
    done = subprocess.run(check, capture_output=True, text=True, check=False)
    assert done.returncode == 0 and done.stdout.count("PASSED") == 2, done.stdout + done.stderr


def test_the_command_finds_its_configs_anywhere(wheel, tmp_path):
    installed = tmp_path / "installed"
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(installed)
    here = tmp_path / "here"
    here.mkdir()
    environment = os.environ | {"PYTHONPATH": os.fspath(installed), "JAX_PLATFORMS": "cpu"}

    def cdt(*arguments):
        return subprocess.run(
            [sys.executable, "-c", "import sys; from cdt.main import main; sys.exit(main())",
             *arguments], cwd=here, env=environment, capture_output=True, text=True, check=False,
        )  # fmt: skip

    assert cdt("--version").stdout == f"cdt {__version__}\n"
    done = cdt("--config=configs/digits.py:smoke", "--workdir=run", "--mode=sample")
    assert done.returncode == 2 and "train first" in done.stderr, done.stderr
    done = cdt("--config=configs/nothing.py", "--workdir=run")
    assert done.returncode == 2 and "does not exist" in done.stderr
    # Files in the working directory have priority.
    (here / "configs").mkdir()
    (here / "configs" / "digits.py").write_text("def get_config(variant=''):\n    return 1 / 0\n")
    done = cdt("--config=configs/digits.py:smoke", "--workdir=run")
    assert done.returncode == 2 and "ZeroDivisionError" in done.stderr
