"""The parts of a run that every mode needs, opened and checked."""

from typing import NamedTuple

import jax
from etils import epath
from ml_collections import ConfigDict

from cdt import from_config
from cdt.devices.agreement import errors_of_all
from cdt.errors import user_errors
from cdt.monitoring import console
from cdt.workdir.record import check_identity


class OpenRun(NamedTuple):
    """A run's config and workdir, with its device mesh and its model."""

    config: ConfigDict
    path: epath.Path  # the workdir; it may not exist yet
    mesh: jax.sharding.Mesh
    model: from_config.Model


def open_run(config: ConfigDict, workdir: epath.PathLike) -> OpenRun:
    """Open the run of a config in a workdir; change no file.

    Args:
      config: config of the run.
      workdir: local or gs://; it may be new.

    Raises:
      UserError: the devices do not fit the config, the network cannot be built, or the workdir has
        another run; on all processes, if one finds it.
    """
    path = epath.Path(workdir)
    with errors_of_all(), user_errors():
        check_identity(path, config)
        with console.phase("finding devices") as finding:
            mesh = from_config.mesh(config)
            finding.result = f"{mesh.size} x {mesh.devices.flat[0].device_kind}"
        return OpenRun(config, path, mesh, from_config.model(config, mesh))
