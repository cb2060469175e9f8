"""Errors meant for the person who runs the program."""


class UserError(Exception):
    """One sentence: what was given, what was expected, how to mend it; `main` exits with 2."""
