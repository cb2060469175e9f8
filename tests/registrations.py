"""Removal of the registrations of a test after it."""

import contextlib

from cdt import register
from cdt.config import schema


@contextlib.contextmanager
def forgotten():
    tables = [table for tables in register._TABLES.values() for table in tables]
    kept = [(table, dict(table)) for table in (*tables, schema._added, register._origins)]
    try:
        yield
    finally:
        for table, before in kept:
            table.clear()
            table.update(before)
