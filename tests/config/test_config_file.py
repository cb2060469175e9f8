"""Config files of users: errors in them, files next to them, keys on the command line."""

import subprocess
import sys

import pytest

from cdt import main
from cdt.config import default_config, flatten, load_config, unknown_key
from cdt.config.synonyms import FLAGS, KEYS, MODES
from cdt.errors import UserError
from doc_pages import ROOT

START = "from cdt.config import default_config\n\n\ndef get_config(variant=''):\n"
WHOLE = START + "    return default_config()\n"
DIGITS = f"--config={ROOT}/configs/digits.py"


def refused(call, *arguments):
    """The sentence of a UserError."""
    with pytest.raises(UserError) as error:
        call(*arguments)
    assert "\n" not in str(error.value)
    return str(error.value)


BROKEN = {
    "syntax": ("import os\ndef get_config(:\n", 2, "def get_config(:", "SyntaxError"),
    "import": ("import no_such_module\n", 1, "import no_such_module", "ModuleNotFoundError"),
    "name": (START + "    return config\n", 5, "return config", "NameError"),
    "value": (START + "    return 1 / 0\n", 5, "return 1 / 0", "ZeroDivisionError"),
    "type": (
        START + "    config = default_config()\n    config.optim.lr = 'fast'\n    return config\n",
        6, "config.optim.lr = 'fast'", "TypeError",
    ),
    "attribute": (
        START + "    config = default_config()\n    config.optm.lr = 1.0\n    return config\n",
        6, "config.optm.lr = 1.0", "no key 'optm.lr'; did you mean 'optim.lr'?",
    ),
    "new key": (
        START + "    config = default_config()\n    config.optim.learning_rate = 1.0\n"
        "    return config\n",
        6, "config.optim.learning_rate = 1.0", "no key 'optim.learning_rate'; did you mean",
    ),
    "old key": (
        START + "    config = default_config()\n    config.timesteps.patience = 5\n",
        6, "config.timesteps.patience = 5", "'curriculum.patience.steps'",
    ),
    "user error": (
        "from cdt import register\nregister.network('a b', print)\n",
        2, "register.network('a b', print)", "letters, digits",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", BROKEN)
def test_an_error_names_file_line_and_text(name, tmp_path, monkeypatch):
    source, line, text, words = BROKEN[name]
    (tmp_path / "broken.py").write_text(source)
    monkeypatch.chdir(tmp_path)
    sentence = refused(load_config, "broken.py")
    assert sentence.startswith(f"broken.py, line {line}, `{text}`: ") and words in sentence


def test_an_error_in_a_file_next_to_the_config(tmp_path):
    (tmp_path / "sizes_of_mine.py").write_text("WIDTH = 1 / 0\n")
    (tmp_path / "mine.py").write_text("import sizes_of_mine\n" + WHOLE)
    assert "sizes_of_mine.py, line 1, `WIDTH = 1 / 0`" in refused(
        load_config, f"{tmp_path}/mine.py"
    )


NO_CONFIGS = {
    "a.yaml": (b"lr: 1\n", "configs are Python files"),
    "a.json": (b"{}\n", "configs are Python files"),
    "a.bin": (b"\x7fELF\0\0", "a binary file"),
    "a.py": (b"lr = 1\n", "no function get_config"),
    "b.py": (b"def get_config():\n    return {}\n", "returns a dict"),
    "c.py": (b"def get_config():\n    pass\n", "returns None"),
}


@pytest.mark.parametrize("name", NO_CONFIGS)
def test_what_is_no_config_file(name, tmp_path):
    content, words = NO_CONFIGS[name]
    (tmp_path / name).write_bytes(content)
    assert words in refused(load_config, f"{tmp_path / name}")


def test_a_folder_and_a_missing_file(tmp_path):
    assert "which is a folder" in refused(load_config, str(tmp_path))
    (tmp_path / "a.py").write_text(WHOLE)
    assert f"there is {tmp_path}/a.py" in refused(load_config, f"{tmp_path}/a")


def test_get_config_with_and_without_an_argument(tmp_path):
    file = tmp_path / "a.py"
    file.write_text("from cdt.config import default_config as get_config\n")
    assert flatten(load_config(str(file))) == flatten(default_config())
    assert "takes no argument" in refused(load_config, f"{file}:smoke")
    file.write_text(WHOLE.replace("variant=''", "variant"))
    assert flatten(load_config(str(file))) == flatten(default_config())


@pytest.mark.parametrize("start", [["-m", "cdt"], ["-c", "from cdt.main import main; main()"]])
def test_a_config_imports_a_file_next_to_it(start, tmp_path):
    """As `python -m cdt`, and as the console script `cdt` does."""
    (tmp_path / "sizes_of_mine.py").write_text("WIDTH = 64\n")
    (tmp_path / "mine.py").write_text(
        "from sizes_of_mine import WIDTH\n" + START
        + "    config = default_config()\n    config.model.hidden_size = WIDTH\n"
        + "    print('hidden size', WIDTH)\n    return config\n"
    )  # fmt: skip
    command = [
        sys.executable,
        *start,
        f"--config={tmp_path}/mine.py",
        "--workdir=x",
        "--config.a=1",
    ]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert "hidden size 64" in done.stdout and "no key 'a'" in done.stderr


def parsed(*arguments):
    return main.parse(["cdt", DIGITS, "--workdir=x", *arguments])


OVERRIDES = {
    "optim.lr": (["--config.optim.lr=2e-4"], 2e-4),
    "model.depth": (["--config.model.depth", "3"], 3),
    "process.p_mean": (["--config.process.p_mean", "-0.5"], -0.5),
    "data.flip": (["--config.data.flip"], True),
    "log.tensorboard": (["--noconfig.log.tensorboard"], False),
    "model.unroll": (["--config.model.unroll", "False"], False),
    "curriculum.enabled": (["--config.curriculum.enabled=false"], False),
    "curriculum.edges": (["--config.curriculum.edges=0,0.5,1"], (0, 0.5, 1)),
    "ema.decays": (["-config.ema.decays=0.99"], (0.99,)),
    "sample.prompts": (["--config.sample.prompts=a red heart"], ("a red heart",)),
    "evaluate.emas": (["--config.evaluate.emas=('raw', '0.99')"], ("raw", "0.99")),
    "sample.classes": (["--config.sample.classes="], ()),
    "train.duration": (["--config.train.duration=30 epochs"], "30 epochs"),
}


@pytest.mark.parametrize("key", OVERRIDES)
def test_keys_on_the_command_line(key):
    arguments, value = OVERRIDES[key]
    assert flatten(parsed(*arguments)[0])[key] == value


def test_all_arguments_are_parsed_whatever_their_order():
    config, workdir, mode, _ = main.parse(
        ["cdt", "--config.model.depth", "3", "--mode", "sample", "--workdir", "~/x", DIGITS]
    )
    assert config.model.depth == 3 and mode == "sample" and not workdir.startswith("~")


WRONG = {
    "--config.optim.lr=fast": "config.optim.lr is 'fast'; it must be a float such as 0.0001.",
    "--config.data.flip=perhaps": "it must be a bool (True or False)",
    "--config.curriculum.edges=0..1": "it must be a tuple such as (1, 2)",
    "--config.optim.lr": "config.optim.lr has no value",
    "--config.model=dit": "is a section, which has no value; give one of its keys, such as "
    "--config.model.name=dit",
    "--config.optim.learning_rate=1e-4": "did you mean 'optim.lr'?",
    "--config.batch_size=8": "did you mean 'train.batch_size'?",
    "--config.train.epochs=8": "did you mean 'train.duration'?",
    "--config.train.steps=8": "did you mean 'train.duration'?",
    "--config.sample.num_steps=8": "did you mean 'sample.steps'?",
    "--config.curiculum.patience.steps=8": "did you mean 'curriculum.patience.steps'?",
    "--config.model.guidance_scale=2": "did you mean 'sample.guidance'?",
    "--model.depth=3": "There is no flag --model.depth; did you mean --config.model.depth=3?",
    "--model=dit": "did you mean --config.model=dit?",
    "--lr=1e-3": "did you mean --config.optim.lr=1e-3?",
    "--optim.learning_rate=1e-3": "did you mean --config.optim.lr=1e-3?",
    "--cfg=a.py": "There is no flag --cfg; did you mean --config=a.py?",
    "--work_dir=runs/a": "did you mean --workdir=runs/a?",
    "--output_dir=runs/a": "did you mean --workdir=runs/a?",
    "--mode=training": "did you mean 'train'?",
    "--mode=inference": "did you mean 'sample'?",
    "--mode=x": "it must be one of train, sample",
    "--zzz=1": "There is no flag --zzz; --help lists the flags.",
    "train": "'train' is not a flag; did you mean --mode=train?",
    "optim.lr=1": "did you mean --config.optim.lr=1?",
    "configs/digits.py": "did you mean --config=configs/digits.py?",
}


@pytest.mark.parametrize("argument", WRONG)
def test_a_wrong_argument_gets_a_suggestion(argument):
    assert WRONG[argument] in refused(parsed, argument)


def test_synonyms_stand_for_what_exists_and_hide_nothing():
    known = flatten(default_config())
    assert {*KEYS.values()} <= known.keys() and not KEYS.keys() & known.keys()
    assert {*FLAGS.values()} <= {*main.define_flags()} and not FLAGS.keys() & {*main.define_flags()}
    assert {*MODES.values()} <= {*main.MODES} and not MODES.keys() & {*main.MODES}
    for key, meant in KEYS.items():
        assert f"'{meant}'" in str(unknown_key(key)), key
