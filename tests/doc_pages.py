"""Code blocks of the documentation: collected, checked, and run at a small size.

A block's fence names its language and, as `title="..."`, either the marks of why no test runs it or
the file that the reader is to write it to. The site shows both.
"""

import hashlib
import os
import re
import runpy
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

from ml_collections import ConfigDict

from cdt import main
from cdt.config import check_keys, default_config, flatten, unknown_key
from cdt.data import emoji, prepare, text
from cdt.data.command_line import parsed
from cdt.errors import EXIT_FINISHED
from cdt.modes.compare import parse_arms

ROOT = Path(__file__).parents[1]
PAGES = sorted([ROOT / "README.md", *(ROOT / "docs").rglob("*.md")])
# Reasons why a block is not run. All except the first need something that a test does not have.
MARKS = (
    "synopsis",
    "needs a download",
    "needs a GPU",
    "needs several hosts",
    "needs a cluster",
    "needs a cloud account",
    "takes hours",
)
# Languages of blocks that are not commands: output, the content of a file.
SHOWN = ("text", "json")
_PROGRAM = re.compile(
    r"^(\w+=\S+ )*(python|cdt(?! \d)|make|pip|launch/|bash|sbatch|export|gcloud|npm)\b"
)
_FENCE = re.compile(r"^( *)(`{3,})(.*)$")
_INFO = re.compile(r'^(?P<language>\w*)( title="(?P<title>[^"]+)")?$')

# Every run ends after seconds.
CHEAP = {
    "train.duration": "4 steps",
    "train.batch_size": 16,
    "optim.warmup": "1 steps",
    "curriculum.num_clusters": 2,
    "model.depth": 1,
    "model.channel_mult": (1,),
    "model.attention_resolutions": (16,),
    "validation.every": "4 steps",
    "validation.images": 8,
    "log.every": "2 steps",
    "log.tensorboard": False,
    "checkpoint.every": "2 steps",
    "sample.every": "4 steps",
    "sample.steps": 2,
    "sample.num": 10,
    "evaluate.num": 16,
    "evaluate.features": "pixels",
    "difficulty.duration": "2 steps",
    "difficulty.validations": 2,
    "difficulty.seeds": 1,
    "difficulty.num_pairs": 4,
    "difficulty.num_draws": 20,
    "difficulty.max_images": 50,
    "compare.arms": ("uniform: curriculum.enabled=False", "curriculum: curriculum.enabled=True"),
    "compare.seeds": 1,
    "compare.evaluations": 1,
}
# For configs without the variant `:smoke`: the keys that it sets.
SMALL = {"model.size": "", "model.hidden_size": 32, "model.num_heads": 2}
# The scripts that start cdt with their arguments, and the environment that their dry run needs.
RUNNING = ("launch/tpu_run.sh", "launch/slurm.sbatch")
DRY = {
    f"launch/{name}": [*shell, f"{ROOT}/launch/{name}"]
    for name, shell in {
        "slurm.sbatch": ["bash"],
        "tpu_create.sh": [],
        "tpu_delete.sh": [],
        "tpu_run.sh": [],
        "tpu_status.sh": [],
    }.items()
}
# If a command gives these keys, they are shortened to a cheap run.
SHORTENED = {"evaluate.every": "4 steps", "checkpoint.keep_every": "2 steps"}


class Block(NamedTuple):
    """One fenced block."""

    page: Path
    line: int  # of the opening fence
    language: str
    title: str
    text: str

    @property
    def where(self) -> str:
        return f"{self.page.name}:{self.line}"

    @property
    def marks(self) -> list[str]:
        return [] if self.file else [mark for mark in self.title.split(", ") if mark]

    @property
    def file(self) -> str:
        """The name of the file that has this content."""
        return self.title if re.fullmatch(r"[\w./-]+\.(py|jsonl|json)", self.title) else ""


class Command(NamedTuple):
    """A command of a shell block: its words, and the `NAME=value` before them."""

    environment: dict[str, str]
    words: list[str]


def blocks(page: Path) -> list[Block]:
    """Return the fenced blocks of a page.

    Raises:
      ValueError: a fence is not closed, or its info string has another format.
    """
    found, opened = [], None
    for number, line in enumerate(page.read_text().splitlines(), 1):
        fence = _FENCE.match(line)
        if opened is None:
            if fence:
                info = _INFO.match(fence[3].strip())
                if not info:
                    raise ValueError(f"{page.name}:{number}: the fence says '{fence[3]}'")
                opened = number, len(fence[1]), fence[2], info, []
        elif fence and fence[2].startswith(opened[2]) and not fence[3].strip():
            number, _, _, info, lines = opened
            text = "\n".join(lines) + "\n"
            found.append(Block(page, number, info["language"], info["title"] or "", text))
            opened = None
        else:
            opened[-1].append(line[opened[1] :] if line[: opened[1]].isspace() else line)
    if opened:
        raise ValueError(f"{page.name}:{opened[0]}: the fence is never closed")
    return found


def commands(text: str) -> list[Command]:
    """Return the commands of a shell block; a line may have several, joined by `&&`."""
    found = []
    for line in text.replace("\\\n", " ").splitlines():
        words = shlex.split(line, comments=True)
        while words:
            end = words.index("&&") if "&&" in words else len(words)
            first, words = words[:end], words[end + 1 :]
            names = 0
            while names < len(first) and re.match(r"\w+=", first[names]):
                names += 1
            environment = dict(word.split("=", 1) for word in first[:names])
            found.append(Command(environment, first[names:]))
    return found


def problems(block: Block) -> list[str]:
    """Return the errors of a block that can be found without running it."""
    if block.language in SHOWN:
        given = [line for line in block.text.splitlines() if _PROGRAM.match(line.strip())]
        return [f"{block.where}: '{line}' is a command: use sh" for line in given]
    if block.language not in ("sh", "python"):
        return [f"{block.where}: the language '{block.language}' is none of sh, python, text, json"]
    unknown = [mark for mark in block.marks if mark not in MARKS]
    return [f"{block.where}: there is no mark '{mark}'" for mark in unknown]


def check_form(block: Block, environment: dict[str, str]) -> None:
    """Check flags, config files and keys of the commands in a marked block without running them.

    Args:
      block: a block that no test runs.
      environment: variables that earlier blocks of the page exported; those of this one are added.

    Raises:
      UserError, AssertionError: the program would refuse a command.
    """
    if block.language == "python" or "synopsis" in block.marks:
        return
    for command in commands(block.text):
        words = command.words
        launched = [i for i, word in enumerate(words) if word.startswith("launch/")]
        if words[0] == "export":
            environment |= dict(word.split("=", 1) for word in words[1:])
        elif words[0] == "make":
            _shell([words[0], "-n", *words[1:]], {})
        elif launched:
            script, arguments = words[launched[0]], words[launched[0] + 1 :]
            arguments = [word for word in arguments if word != "--dry-run"]
            if script in RUNNING:
                _check_arguments("cdt.main", arguments)
            if script in DRY:
                _shell([*DRY[script], "--dry-run", *arguments], environment | command.environment)
        elif module := _module(words):
            _check_arguments(module, words[1:] if words[0] == "cdt" else words[3:])


def _module(words: list[str]) -> str:
    """ "cdt.main" of `python -m cdt.main ...` and of `cdt ...`."""
    if words[:1] == ["cdt"]:
        return "cdt.main"
    ours = words[:2] == ["python", "-m"] and words[2:3] and words[2].startswith("cdt.")
    return words[2] if ours else ""


def _check_arguments(module: str, arguments: list[str]) -> None:
    if any(argument.startswith("--help") for argument in arguments):
        return
    if module == "cdt.data.prepare":
        prepare.parse([module, *arguments])
    elif module == "cdt.data.text":
        parsed(text.define_flags(), [module, *arguments])
    elif module != "cdt.data.emoji":
        own = ("--weights=", "--out=", "--vae=", "--license=", "--labels=")
        arguments = [a for a in arguments if module == "cdt.main" or not a.startswith(own)]
        check_keys(main.parse([module, *arguments])[0])


class Runner:
    """Runs the blocks of one page in its own folder, with links to configs/ and launch/.

    Args:
      folder: empty; the working directory.
      shared: folder of all pages: compiled programs, and the runs that several pages start with.
    """

    def __init__(self, folder: Path, shared: Path):
        for name in ("configs", "launch"):
            (folder / name).symlink_to(ROOT / name)
        self.folder, self.shared = folder, shared
        self.names: dict[str, object] = {"__name__": "page"}

    def run(self, block: Block) -> None:
        if block.file:
            path = self.folder / block.file
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(block.text)
        elif block.language == "python":
            exec(compile(block.text, block.where, "exec"), self.names)
            if isinstance(self.names.get("config"), ConfigDict):
                check_config(self.names["config"])
        else:
            for command in commands(block.text):
                self._command(command)

    def _command(self, written: Command) -> None:
        words = written.words
        if module := _module(words):
            arguments = words[1:] if words[0] == "cdt" else words[3:]
            if module in ("cdt.data.prepare", "cdt.data.text", "cdt.data.emoji"):
                command = {
                    "prepare": prepare.prepare_command,
                    "text": text.text_command,
                    "emoji": emoji.emoji_command,
                }[module[9:]]
                code = command([module, *arguments])
            else:
                code = self._with_config(module, arguments)
            assert code == EXIT_FINISHED, f"exit code {code} of {shlex.join(words)}"
        else:
            raise AssertionError(f"no test can run '{shlex.join(words)}': mark its block")

    def _with_config(self, module: str, arguments: list[str]) -> int:
        _check_arguments(module, arguments)
        argv = [module, *cheap(arguments, self.shared / "compiled")]
        if module == "cdt.main":
            return self._main(argv, arguments)
        before, sys.argv = sys.argv, argv
        try:
            runpy.run_module(module, run_name="__main__", alter_sys=True)
        except SystemExit as end:
            return end.code
        finally:
            sys.argv = before

    def _main(self, argv: list[str], arguments: list[str]) -> int:
        """Run a command of cdt.main.

        The same command of a shipped config in a new workdir has the same result. It is copied from
        the first page that has the command.
        """
        workdir = next(Path(a.partition("=")[2]) for a in arguments if a.startswith("--workdir="))
        reads = ("--config.init_from=", "--config.curriculum.edges_file=")
        shipped = any(a.startswith("--config=configs/") for a in arguments)
        if workdir.exists() or not shipped or any(a.startswith(reads) for a in arguments):
            return main.run_command_line(argv)
        kept = self.shared / "runs" / hashlib.sha256(" ".join(arguments).encode()).hexdigest()
        if not kept.exists():
            code = main.run_command_line(argv)
            if code != EXIT_FINISHED:
                return code
            shutil.copytree(workdir, kept)
        else:
            shutil.copytree(kept, workdir)
        return EXIT_FINISHED


def check_config(config: ConfigDict) -> None:
    """Raise UserError if a page sets an unknown key, also in an arm."""
    check_keys(config)
    known = flatten(default_config())
    for overrides in parse_arms(config.compare.arms).values():
        for key in overrides:
            if key not in known:
                raise unknown_key(key)


def cheap(arguments: list[str], cache: Path) -> list[str]:
    """Return the command of a short run: a shipped config as `:smoke`, with more overrides."""
    given = {word.partition("=")[0].removeprefix("--config.") for word in arguments}
    file = next((word for word in arguments if word.startswith("--config=")), "")
    overrides = CHEAP | {key: value for key, value in SHORTENED.items() if key in given}
    name, _, variant = file.partition(":")
    if name.startswith("--config=configs/") and not name.endswith("compare.py"):
        names = variant.split(",") if variant else []
        small = f"{name}:{','.join(names if 'smoke' in names else [*names, 'smoke'])}"
        arguments = [small if word == file else word for word in arguments]
    else:
        overrides = SMALL | overrides
    overrides["compilation_cache"] = str(cache)
    return [*arguments, *(f"--config.{key}={value}" for key, value in overrides.items())]


def _shell(words: list[str], environment: dict[str, str]) -> None:
    done = subprocess.run(
        words, env=os.environ | environment, cwd=ROOT, capture_output=True, text=True, check=False
    )  # fmt: skip
    assert done.returncode == 0, f"{shlex.join(words)}: {done.stdout}{done.stderr}"
