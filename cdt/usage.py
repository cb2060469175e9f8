"""Answers to --help, to --version and to a command line without arguments, for every program.

Nothing heavy is imported: a program answers before it loads JAX.
"""

import sys
from collections.abc import Callable, Sequence

from cdt.errors import EXIT_FINISHED, EXIT_USER_ERROR
from cdt.version import __version__

_HELP = ("h", "help", "helpshort", "helpfull", "helpxml")


def answer(
    argv: Sequence[str], text: str, explain: Callable[[str], str] | None = None
) -> int | None:
    """Print what the command line asks for and return the exit code; None if it asks for nothing.

    Args:
      argv: the command line; without arguments the text goes to stderr, with exit code 2.
      text: the program's help.
      explain: topic -> text, for --help=TOPIC; None prints `text` for every topic.
    """
    if len(argv) < 2:
        print(text.strip(), file=sys.stderr)
        return EXIT_USER_ERROR
    for argument, following in zip(argv[1:], [*argv[2:], ""], strict=True):
        if not argument.startswith("-"):
            continue
        name, _, topic = argument.lstrip("-").partition("=")
        if name == "version":
            print(f"cdt {__version__}")
            return EXIT_FINISHED
        if name in _HELP:
            topic = topic or ("" if following.startswith("-") else following)
            print(explain(topic) if explain and topic else text.strip())
            return EXIT_FINISHED
    return None


def answer_and_exit(text: str | None) -> None:
    """End this process if its command line is answered by `answer`."""
    code = answer(sys.argv, text or "")
    if code is not None:
        sys.exit(code)
