"""Tests of doc_pages.py: wrong pages and commands are found."""

import pytest
from ml_collections import ConfigDict

from cdt.config import default_config
from cdt.errors import UserError
from doc_pages import PAGES, Runner, blocks, cheap, check_config, check_form, commands, problems

RUN = "python -m cdt.main --config=configs/digits.py --workdir=runs/a"


def page_of(tmp_path, text):
    page = tmp_path / "page.md"
    page.write_text(text)
    return page


def block_of(tmp_path, fence, text):
    (block,) = blocks(page_of(tmp_path, f"Words.\n\n```{fence}\n{text}\n```\n"))
    return block


def test_every_kind_of_page_is_collected():
    names = {page.name for page in PAGES}
    assert {"README.md", "index.md", "launch.md", "timestep_sampler.md", "config.md"} <= names
    collected = [block for page in PAGES for block in blocks(page)]
    run = [b for b in collected if b.language in ("sh", "python") and not b.marks]
    assert len(run) > len(collected) / 2


def test_blocks_have_their_place_language_and_title(tmp_path):
    text = '# A\n\n```sh title="needs a GPU"\na\n```\n\n- item\n\n  ````text\n  ```\n  b\n  ````\n'
    first, second = blocks(page_of(tmp_path, text))
    assert (first.where, first.language, first.text) == ("page.md:3", "sh", "a\n")
    assert first.marks == ["needs a GPU"] and first.file == ""
    assert (second.line, second.language, second.text) == (9, "text", "```\nb\n")
    file = block_of(tmp_path, 'python title="own/mine.py"', "x = 1")
    assert file.file == "own/mine.py" and file.marks == []


def test_a_fence_of_another_form_is_an_error(tmp_path):
    for text in ("```sh\na\n", "```sh {.marked}\na\n```\n"):
        with pytest.raises(ValueError, match="page.md:1"):
            blocks(page_of(tmp_path, text))


@pytest.mark.parametrize(
    "fence, text, words",
    [
        ("", RUN, "language ''"),
        ("bash", RUN, "language 'bash'"),
        ("text", RUN, "is a command"),
        ("text", f"output\n{RUN}", "is a command"),
        ('sh title="needs luck"', RUN, "no mark 'needs luck'"),
        ('sh title="needs a GPU, needs luck"', RUN, "no mark 'needs luck'"),
    ],
)
def test_what_is_wrong_without_running(tmp_path, fence, text, words):
    (found,) = problems(block_of(tmp_path, fence, text))
    assert words in found


def test_what_is_right(tmp_path):
    for fence in ("sh", "python", 'sh title="takes hours, needs a GPU"', "json"):
        assert problems(block_of(tmp_path, fence, "x")) == []


def test_commands_are_split_as_a_shell_does():
    first, second, third = commands(
        'A=1 B="2 3" cdt --a="b c" \\\n    --d  # why\n\nmake x && pip install y\n# nothing\n'
    )
    assert first.environment == {"A": "1", "B": "2 3"}
    assert first.words == ["cdt", "--a=b c", "--d"]
    assert (second.words, third.words) == (["make", "x"], ["pip", "install", "y"])


@pytest.mark.parametrize(
    "command, words",
    [
        (f"{RUN} --config.optim.lrr=1", "did you mean 'optim.lr'"),
        (f"{RUN} --config.optim.lr=fast", "it must be a float"),
        (f"{RUN} --mode=trian", "did you mean 'train'"),
        (f"{RUN} --wrokdir=b", "wrokdir"),
        (RUN.replace("digits.py", "digit.py"), "does not exist"),
        (RUN.replace("digits.py", "digits.py:huge"), "the variant 'huge'"),
        ("python -m cdt.data.prepare --source=folder --path=a --out=b --imagesize=3", "imagesize"),
        ("python -m cdt.data.text --data=a --encodr=b", "encodr"),
        ("launch/tpu_run.sh --config=configs/digits.py --workdir=runs/a", "PROJECT"),
        ("sbatch launch/slurm.sbatch --config=configs/digits.py --workdir=a --mode=trian", "train"),
        ("make tset", "tset"),
    ],
)
def test_a_marked_command_must_have_its_form(tmp_path, command, words):
    block = block_of(tmp_path, 'sh title="needs a GPU"', command)
    with pytest.raises((UserError, AssertionError), match=words):
        check_form(block, {})


def test_a_marked_command_of_the_right_form_passes(tmp_path):
    text = f"{RUN} --config.optim.lr=1e-3\npip install x\nmake -j2 test && npm pack y"
    check_form(block_of(tmp_path, 'sh title="needs a GPU"', text), {})


@pytest.fixture
def runner(tmp_path, monkeypatch):
    folder = tmp_path / "folder"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return Runner(folder, tmp_path / "cache")


@pytest.mark.parametrize(
    "fence, text, words",
    [
        ("sh", f"{RUN} --config.optim.lrr=1", "did you mean 'optim.lr'"),
        ("sh", f"{RUN} --mode=sample", "exit code 2"),  # nothing was trained
        ("sh", "pip install x", "mark its block"),
        ("sh", "python other.py", "mark its block"),
        ("sh", "python -m cdt.data.emoji nowhere", "exit code 2"),
        ("python", "import cdt.nothing", "nothing"),
        ("python", "from cdt.config import default_config\nconfig = default_config()\n"
                   "config.optim.lrr = 1", "did you mean 'optim.lr'"),
    ],
)  # fmt: skip
def test_an_unmarked_block_must_run(tmp_path, runner, fence, text, words):
    with pytest.raises((UserError, AssertionError, ImportError), match=words):
        runner.run(block_of(tmp_path, fence, text))


def test_a_key_in_an_arm_is_checked():
    config = default_config()
    config.compare.arms = ("a: curriculum.enabled=False", "b: densty.name=uniform")
    with pytest.raises(UserError, match="did you mean 'density.name'"):
        check_config(config)
    assert isinstance(config, ConfigDict)


def test_a_file_is_written_for_later_blocks(tmp_path, runner):
    runner.run(block_of(tmp_path, 'python title="own/mine.py"', "x = 3"))
    runner.run(block_of(tmp_path, "python", "import runpy\nx = runpy.run_path('own/mine.py')['x']"))
    assert runner.names["x"] == 3


def test_runs_are_made_small(tmp_path):
    own = "--config=configs/emoji64.py:small"
    made = cheap([own, "--workdir=a", "--config.checkpoint.keep_every=500 steps"], tmp_path)
    assert made[0] == "--config=configs/emoji64.py:small,smoke"
    assert made.index("--config.train.duration=4 steps") > 2
    assert "--config.checkpoint.keep_every=2 steps" in made
    assert "--config.model.hidden_size=32" not in made  # as `:smoke` has it
    assert "--config.model.hidden_size=32" in cheap(["--config=mine.py", "--workdir=a"], tmp_path)
