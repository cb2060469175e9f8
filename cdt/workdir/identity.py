"""What makes a run the run it is: a workdir is never given to another one."""

from ml_collections import ConfigDict

from cdt.config import default_config, flatten

# What may change when a run resumes: how it is watched, how long it is, how it is executed.
_FREE = ("latents.weights", "latents.batch_size", "mesh.", "difficulty.", "compare.",
         "validation.every", "validation.images", "log.", "checkpoint.", "sample.", "evaluate.",
         "replay.", "profile.",
         "model.unroll", "model.remat", "train.duration", "train.accumulate",
         "train.steps_per_dispatch", "train.max_bad_steps", "data.class_names",
         "data.max_bad_fraction", "compilation_cache")  # fmt: skip


def identity(config: ConfigDict) -> dict[str, object]:
    """The flat keys that make a run the run it is: model, family, data, optimizer, batch, density,
    curriculum, seed. Options of a method count where the config names it: those of
    `density.two_phase` only where `density.name` is "two_phase"."""
    free = _FREE if config.data.name == "latents" else (*_FREE, "latents.")
    flat = flatten(config)
    named = [(key.partition(".")[0], value) for key, value in flat.items() if key.count(".") == 1]

    def counts(key: str) -> bool:
        section, _, rest = key.partition(".")
        method, nested, _ = rest.partition(".")
        return not key.startswith(free) and (not nested or (section, method) in named)

    return {key: value for key, value in flat.items() if counts(key)}


def identity_differences(config: ConfigDict, saved: dict[str, object]) -> list[str]:
    """One phrase for each identity key whose value differs from a saved run's `identity`.

    A key that the saved run lacks came with a later version, and its default is what was before.
    """

    def plain(value: object) -> object:
        return list(value) if isinstance(value, tuple) else value

    mine = identity(config)
    theirs = {key: flatten(default_config())[key] for key in mine} | saved
    return [
        f"{key} (there {theirs[key]!r}, now {mine.get(key)!r})"
        for key in sorted(theirs)
        if plain(mine.get(key)) != plain(theirs[key])
    ]
