"""The config keys that identify a run; a workdir accepts only the run that it belongs to."""

from ml_collections import ConfigDict

from cdt.config import default_config, flatten

# Keys that may change when a run resumes: logging, duration and execution.
_FREE = ("latents.weights", "latents.batch_size", "mesh.", "difficulty.", "compare.",
         "validation.every", "validation.images", "log.", "checkpoint.", "sample.", "evaluate.",
         "replay.", "profile.",
         "model.unroll", "model.remat", "train.duration", "train.accumulate",
         "train.steps_per_dispatch", "train.max_bad_steps", "data.class_names",
         "data.max_bad_fraction", "compilation_cache")  # fmt: skip


def identity(config: ConfigDict) -> dict[str, object]:
    """Return {flat key: value} of the keys that identify a run.

    They are those of the model, family, data, optimizer, batch, density, curriculum and seed.
    Options of a method are included only if the config names the method: those of
    `density.two_phase` if `density.name` is "two_phase".
    """
    free = _FREE if config.data.name == "latents" else (*_FREE, "latents.")
    flat = flatten(config)
    named = [(key.partition(".")[0], value) for key, value in flat.items() if key.count(".") == 1]

    def counts(key: str) -> bool:
        section, _, rest = key.partition(".")
        method, nested, _ = rest.partition(".")
        return not key.startswith(free) and (not nested or (section, method) in named)

    return {key: value for key, value in flat.items() if counts(key)}


def identity_differences(config: ConfigDict, saved: dict[str, object]) -> list[str]:
    """Return "key (saved: value, now: value)" for each identity key that differs.

    Args:
      config: of this run.
      saved: `identity` of the saved run. Keys that it lacks are newer than that run; their default
        is the behaviour of the older version.
    """

    def plain(value: object) -> object:
        return list(value) if isinstance(value, tuple) else value

    mine = identity(config)
    theirs = {key: flatten(default_config())[key] for key in mine} | saved
    return [
        f"{key} (saved: {theirs[key]!r}, now: {mine.get(key)!r})"
        for key in sorted(theirs)
        if plain(mine.get(key)) != plain(theirs[key])
    ]
