"""The README.md beside exported weights: what they are, how to use them, how good they are."""

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
    """Markdown, with the metadata of model hubs in front.

    Args:
      title: name of the model.
      usage: Markdown.
      facts: {what: words}, as a table.
      config: what made the run the run it is, see `cdt.workdir.identity`; of paths the last part
        is shown.
      evaluations: tables of metrics with their conditions, as aligned text.
      license_name: as hubs abbreviate it, such as "apache-2.0"; empty where it is not known.
      samples: name of a picture beside the card; empty: there is none.
      library: that loads the folder, as hubs call it.
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
            ["| | |", "|---|---|", *(f"| {what} | {words} |" for what, words in facts.items())]
        ),
        "## Use",
        usage.strip(),
        *(["## Samples", f"![Samples]({samples})"] if samples else []),
        "## Metrics",
        measured or "None were measured for these weights.",
        "## Licence",
        license_name
        or "Not stated; see those of the data, and of the weights that the run started from.",
        "## Config",
        f"```json\n{json.dumps(shown, indent=1, sort_keys=True)}\n```",
    ]
    return "\n\n".join(sections) + "\n"
