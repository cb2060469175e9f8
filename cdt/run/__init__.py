"""An opened run: its parts, its weights and its samples. Every mode uses this.

run           load_run and Run, for notebooks and programs
open_run      config, workdir, mesh and model
weights       the weights used for sampling
images        generated images
evaluation    metrics of generated images
training_run  data, train step and shapes of the state, for train and replay
"""

from cdt.run.run import Run, load_run

__all__ = ["Run", "load_run"]
