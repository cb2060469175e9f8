"""Errors meant for the person who runs the program, and the exit codes of the program."""

from collections.abc import Iterator
from contextlib import contextmanager

EXIT_FINISHED = 0
EXIT_USER_ERROR = 2
EXIT_BAD_NUMBERS = 3
EXIT_STOPPED = 75  # saved after a signal, or a peer lost: run the same command again (EX_TEMPFAIL)
EXIT_CRASHED = 76  # one of several processes; above 75, as `srun` tells the highest of its tasks


class UserError(Exception):
    """One sentence: what was given, what was expected, how to mend it; `main` exits with 2."""


@contextmanager
def user_errors() -> Iterator[None]:
    """Turns a ValueError of the library, whose message is such a sentence, into a UserError."""
    try:
        yield
    except ValueError as error:
        raise UserError(str(error)) from error
