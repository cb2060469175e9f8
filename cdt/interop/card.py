"""The model card: README.md of exported weights, with usage, metrics and config."""

import json
from collections.abc import Mapping, Sequence
from pathlib import PurePath
from typing import Any


def model_card(
    title: str,
    usage: str,
    facts: Mapping[str, str],
    config: Mapping[str, Any],
    evaluations: Sequence[str],
    license_name: str,
    samples: str = "",
    library: str = "",
) -> str:
    """Return the model card as Markdown, with the metadata of model hubs at the top.

    Args:
      title: name of the model.
      usage: Markdown.
      facts: {name: value}, shown as a table.
      config: the keys of `cdt.workdir.identity`; only the last part of a path is shown.
      evaluations: tables of metrics and their conditions, as aligned text.
      license_name: identifier of model hubs, such as "apache-2.0"; "" if unknown.
      samples: file name of the sample grid; "" if there is none.
      library: identifier of the library that loads the folder; "" if there is none.
    """
    metadata = {"license": license_name, "library_name": library}
    head = [f"{key}: {json.dumps(value)}" for key, value in metadata.items() if value]
    shown = {
        key: PurePath(value).name if key in ("data.path", "init_from") else value
        for key, value in config.items()
    }
    measured = "\n\n".join(f"```\n{table}\n```" for table in evaluations)
    sections = ["\n".join(["---", *head, "---"])] if head else []
    sections += [
        f"# {title}",
        "\n".join(
            ["| | |", "|---|---|", *(f"| {name} | {value} |" for name, value in facts.items())]
        ),
        "## Use",
        usage.strip(),
        *(["## Samples", f"![Samples]({samples})"] if samples else []),
        "## Metrics",
        measured or "These weights were not evaluated.",
        "## Licence",
        license_name
        or "Not stated. See the licences of the data and of the weights that the run started from.",
        "## Config",
        f"```json\n{json.dumps(shown, indent=1, sort_keys=True)}\n```",
    ]
    return "\n\n".join(sections) + "\n"
