"""The convergence of a finished run: a plot and its numbers."""

from etils import epath

from cdt.files import atomic
from cdt.files.plain_json import to_json
from cdt.monitoring import plots
from cdt.monitoring.history import convergence
from cdt.monitoring.writers import read_history


def write_convergence(workdir: epath.Path) -> None:
    """Write convergence.png and convergence.json from the whole history of a run.

    Args:
      workdir: of the run, local or gs://.

    Raises:
      OSError: the files cannot be written.
      ValueError: the history holds no validation.
    """
    found = convergence(read_history(workdir))
    if found.stage > 0:
        lengths = found.stage_lengths.tolist()
        print(f"stage {found.stage} of {len(lengths)} reached; steps in each: {lengths}")
    starts = found.stage_starts.tolist()
    plots.convergence_plot(workdir / "convergence.png", found.steps, found.losses, starts)
    results = {
        "steps": found.steps,
        "validation_loss": found.losses,
        "normalised": found.normalised,
        "stage_starts": found.stage_starts,
    }
    atomic.write(workdir / "convergence.json", to_json(results))
