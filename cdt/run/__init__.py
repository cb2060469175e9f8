"""A run, opened: its parts, its weights, and the images made with them. Every mode starts here.

run           load_run, Run: what notebooks use
open_run      the parts of a run that every mode needs
weights       the weights that it samples with
images        images made by its network
evaluation    images against a reference
training_run  what training and its replay share
"""

from cdt.run.run import Run, load_run

__all__ = ["Run", "load_run"]
