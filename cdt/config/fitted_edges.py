"""Edges of the clusters from the file that a difficulty study writes."""

import json

from etils import epath
from ml_collections import ConfigDict

from cdt.errors import UserError


def with_fitted_edges(config: ConfigDict) -> None:
    """Replace `curriculum.edges_file` by the edges and the order in that file.

    The identity of a run depends on the numbers, not on the path of a file.

    Raises:
      UserError: the file is missing or holds no fitted curriculum.
    """
    path = config.curriculum.edges_file
    if not path:
        return
    try:
        fitted = json.loads(epath.Path(path).read_text())
        edges, order = tuple(map(float, fitted["edges"])), str(fitted["order"])
    except OSError:
        raise UserError(
            f"config.curriculum.edges_file is '{path}', which does not exist; give the "
            "curriculum.json that --mode=difficulty writes."
        ) from None
    except (ValueError, KeyError, TypeError):
        raise UserError(
            f"config.curriculum.edges_file is '{path}', which holds no edges and order; give the "
            "curriculum.json that --mode=difficulty writes."
        ) from None
    config.curriculum.update(
        spacing="custom", edges=edges, num_clusters=len(edges) - 1, order=order, edges_file=""
    )
