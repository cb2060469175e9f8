"""--help, --version and a command line without arguments, for every program."""

import re
import runpy
import subprocess
import sys

import pytest

from cdt import __version__, key_table, main
from cdt.config import default_config, flatten
from cdt.data import prepare, text
from doc_pages import ROOT
from front_door import cdt
from registrations import forgotten

PROGRAMS = [
    "cdt.main", "cdt", "cdt.data.prepare", "cdt.data.latents", "cdt.data.text", "cdt.data.emoji",
    "cdt.interop.import_dit", "cdt.interop.import_edm", "cdt.interop.export_safetensors",
    "cdt.interop.export_diffusers", "cdt.interop.export_stablehlo",
]  # fmt: skip


def run(monkeypatch, module, *arguments):
    """The exit code of `python -m MODULE` in this process."""
    monkeypatch.setattr(sys, "argv", [module, *arguments])
    monkeypatch.delitem(sys.modules, module, raising=False)  # runpy warns of a loaded module
    with pytest.raises(SystemExit) as end:
        runpy.run_module(module, run_name="__main__")
    return end.value.code


def test_help_of_every_program_loads_neither_jax_nor_tensorflow():
    program = f"""
import runpy, sys
for module in {PROGRAMS}:
    sys.argv = [module, "--help"]
    try:
        runpy.run_module(module, run_name="__main__")
    except SystemExit as end:
        print("exit code", end.code)
print(sorted(sys.modules.keys() & {{"jax", "flax", "tensorflow", "torch", "scipy"}}))
"""
    command = [sys.executable, "-W", "ignore", "-c", program]
    out = subprocess.check_output(command, cwd=ROOT, text=True)
    assert out.count("exit code 0") == len(PROGRAMS) and out.endswith("[]\n"), out


@pytest.mark.parametrize("module", PROGRAMS)
def test_help_fits_on_a_screen_and_names_the_program(module, monkeypatch, capsys):
    assert run(monkeypatch, module, "--help") == 0
    shown = capsys.readouterr().out
    assert "Usage:" in shown and "python -m cdt." in shown
    assert max(map(len, shown.splitlines())) <= 80 and len(shown.splitlines()) <= 45


@pytest.mark.parametrize("module", PROGRAMS)
def test_without_arguments_usage_and_exit_code_2(module, monkeypatch, capsys):
    assert run(monkeypatch, module) == 2
    shown = capsys.readouterr()
    assert "Usage:" in shown.err and not shown.out


@pytest.mark.parametrize("flag", ["-h", "-help", "--help", "--helpfull", "--helpshort"])
def test_every_spelling_of_help_is_answered(flag):
    shown = cdt("--workdir=x", flag)
    assert shown.returncode == 0 and "Usage:" in shown.stdout and "absl" not in shown.stdout


def test_version():
    shown = cdt("--version")
    assert shown.returncode == 0 and shown.stdout == f"cdt {__version__}\n"


def test_all_flags_modes_and_sections_are_in_the_help():
    shown = cdt("--help").stdout
    assert all(f"--{name}=" in shown for name in main.define_flags())
    assert all(f"  {mode} " in shown for mode in main.MODES)
    assert shown.count("  python -m cdt.main --config=configs/") == 3
    for program in (prepare, text):
        listed = program.flag_list(program.define_flags())
        assert all(f"--{name}" in listed for name in program.define_flags())


def test_help_of_a_section_lists_its_keys():
    known = key_table.sections(key_table.SOURCE.read_text())
    shown = {}
    for key in flatten(default_config()):
        section, name = key.partition(".")[0], key.rpartition(".")[2]
        shown[section] = shown.get(section) or key_table.listing(section, known)
        assert re.search(rf"^  {name} = ", shown[section], re.M), key
    assert max(len(line) for text in shown.values() for line in text.splitlines()) <= 80
    assert cdt("--help=optim").stdout.startswith(shown["optim"])


def test_help_of_a_subsection_of_a_key_and_as_a_word_of_its_own():
    shown = cdt("--help", "curriculum.patience").stdout
    assert "steps = 200" in shown and "num_clusters" not in shown
    shown = cdt("--help=config.optim.lr").stdout
    assert "lr = 1e-4" in shown and "weight_decay" not in shown


def test_help_of_nothing_that_exists():
    refused = cdt("--help=nonsense")
    assert refused.returncode == 2 and refused.stderr.count("\n") == 1
    assert all(section in refused.stderr for section in ("data", "curriculum", "replay"))
    assert "did you mean --help=optim.lr?" in cdt("--help=learning_rate").stderr
    assert "did you mean --help=optim?" in cdt("--help=optm").stderr


def test_help_of_a_registered_section(tmp_path):
    file = tmp_path / "mine.py"
    file.write_text(
        "from cdt import register\nfrom cdt.config import default_config\n"
        "register.network('mlp', lambda spec, width: None, width=64)\n"
        "def get_config(variant=''):\n    return default_config()\n"
    )
    assert cdt("--help=model.mlp").returncode == 2
    with forgotten():
        shown = cdt("--help=model.mlp", f"--config={file}")
    assert shown.returncode == 0 and "width = 64" in shown.stdout
