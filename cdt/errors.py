"""Errors meant for the person who runs the program, and the exit codes of the program."""

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager

EXIT_FINISHED = 0
EXIT_USER_ERROR = 2
EXIT_BAD_NUMBERS = 3
EXIT_STOPPED = 75  # saved after a signal, or a peer lost: run the same command again (EX_TEMPFAIL)
EXIT_CRASHED = 76  # one of several processes; above 75, as `srun` tells the highest of its tasks

# What a disk or a folder says that cannot be used, and no mistake of the program's.
_STORAGE = {
    getattr(errno, name)
    for name in (
        "ENOSPC", "EDQUOT", "EFBIG", "EROFS", "EACCES", "EPERM", "EIO", "ESTALE", "ENOTDIR",
        "EEXIST", "ENOTCONN",
    )
}  # fmt: skip


class UserError(Exception):
    """One sentence: what was given, what was expected, how to fix it; `main` exits with 2."""


@contextmanager
def user_errors() -> Iterator[None]:
    """Turn a ValueError of the library, whose message is such a sentence, into a UserError."""
    try:
        yield
    except ValueError as error:
        raise UserError(str(error)) from error


@contextmanager
def storage_errors() -> Iterator[None]:
    """Turn an OSError by which the storage refuses a file or folder into a UserError."""
    try:
        yield
    except OSError as error:
        if error.errno is None or error.errno not in _STORAGE:
            raise
        place = "A file" if error.filename is None else os.fspath(error.filename)
        raise UserError(
            f"{place} cannot be used ({os.strerror(error.errno)}); what was saved before is "
            "intact: make room or fix that, and run the same command again."
        ) from error
