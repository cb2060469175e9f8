"""UserError, for mistakes of the user, and the exit codes of the command."""

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager

EXIT_FINISHED = 0
EXIT_USER_ERROR = 2
EXIT_BAD_NUMBERS = 3
EXIT_STOPPED = 75  # EX_TEMPFAIL: after a signal or the loss of a process, run the command again
EXIT_CRASHED = (
    76  # one of several processes failed; above 75, since `srun` returns the highest code
)

# Errors of a disk or a folder that cannot be used, which are not bugs of the program.
_STORAGE = {
    getattr(errno, name)
    for name in (
        "ENOSPC", "EDQUOT", "EFBIG", "EROFS", "EACCES", "EPERM", "EIO", "ESTALE", "ENOTDIR",
        "EEXIST", "ENOTCONN",
    )
}  # fmt: skip


class UserError(Exception):
    """A mistake of the user, as one sentence: key or file with its value; the rule; the fix.

    `cdt.main` prints the sentence and exits with code 2.
    """


@contextmanager
def user_errors() -> Iterator[None]:
    """Turn a ValueError, whose message is such a sentence in the library, into a UserError."""
    try:
        yield
    except ValueError as error:
        raise UserError(str(error)) from error


@contextmanager
def storage_errors() -> Iterator[None]:
    """Turn an OSError of a disk that is full, read-only or broken into a UserError."""
    try:
        yield
    except OSError as error:
        if error.errno is None or error.errno not in _STORAGE:
            raise
        place = "A file" if error.filename is None else os.fspath(error.filename)
        raise UserError(
            f"{place} cannot be read or written ({os.strerror(error.errno)}); everything saved "
            "before is intact: free some space or fix the storage, and run the same command again."
        ) from error
