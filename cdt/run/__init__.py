"""A run, opened: its parts, its weights, and the images made with them. Every mode starts here."""

from cdt.run.run import Run, load_run

__all__ = ["Run", "load_run"]
