"""--mode=compare: train several arms on one data set under equal conditions and compare them."""

import ast
import json
from collections.abc import Iterable
from importlib.metadata import version
from typing import Any

from etils import epath
from ml_collections import ConfigDict

from cdt import from_config
from cdt.comparison.report import write_report
from cdt.config import check_keys, default_config, flatten, unknown_key, with_fitted_edges
from cdt.config.old_keys import translated
from cdt.errors import EXIT_FINISHED, UserError, user_errors
from cdt.files import atomic
from cdt.modes.train import train
from cdt.monitoring import console
from cdt.monitoring.writers import read_history
from cdt.run.images import describe_samples
from cdt.workdir.identity import identity

# Keys that an arm may not override, because the arms would not be comparable.
_SHARED = ("seed", "init_from", "data.", "validation.", "evaluate.", "difficulty.", "compare.")


def compare(config: ConfigDict, workdir: str) -> int:
    """Train every arm of `config.compare.arms` with every seed and compare them with the first.

    Runs are in `<workdir>/runs/<arm>/seed_<s>`; the same command again resumes unfinished runs.
    Arms differ only by their overrides: the seed determines the initial weights, the order of the
    data and the noise of the samples. After every seed, comparison.json, comparison.csv and
    index.html are written again.

    Raises:
      UserError: an arm or the config is wrong, or the workdir holds another comparison.
    """
    path = epath.Path(workdir)
    with user_errors():
        from_config.check_config(config, "compare")
        arms = parse_arms(config.compare.arms)
        for overrides in arms.values():
            from_config.check_config(_with_overrides(config, overrides), "train")
        train_source = from_config.source(config, config.data.train_split)  # the same for all arms
        # Seed by seed, so that complete pairs can be compared early.
        configs = {
            (name, seed): _arm_config(config, overrides, seed, path, train_source.size)
            for seed in range(config.compare.seeds)
            for name, overrides in arms.items()
        }
        _check_arms(configs)
        _check_settings(path, config)
    averages = {name: from_config.ema_name(configs[name, 0]) for name in arms}
    console.info(
        f"comparison: {len(configs)} runs (arms: {len(arms)}, seeds: {config.compare.seeds}) of "
        f"{config.train.duration}; evaluations of each run: {config.compare.evaluations}, with "
        f"{config.evaluate.num:,} images, features {config.evaluate.features}"
    )

    verdicts = []
    for i, ((name, seed), arm_config) in enumerate(configs.items(), 1):
        print(f"--- {name}, seed {arm_config.seed} ({i} of {len(configs)})")
        exit_code = train(arm_config, str(_run(path, name, seed)))
        if exit_code != EXIT_FINISHED:
            return exit_code
        if i % len(arms) == 0:
            with console.phase(f"writing the report (seeds: {seed + 1})"):
                verdicts = _report(config, train_source.name, averages, seed + 1, path)
    print("\n".join(verdicts))
    print(f"see {path / 'index.html'}")
    return EXIT_FINISHED


def _report(
    config: ConfigDict, data_name: str, averages: dict[str, str], seeds: int, path: epath.Path
) -> list[str]:
    """Write the report of the first `seeds` seeds; return a sentence for each arm but the first."""
    grids = {name: _last_grid(_run(path, name, 0)) for name in averages}
    return write_report(
        f"{data_name}, {config.process.name}: {len(averages)} ways of training",
        config.evaluate.features,
        averages,
        {
            name: [read_history(_run(path, name, seed)) for seed in range(seeds)]
            for name in averages
        },
        {name: grid for name, grid in grids.items() if grid},
        _conditions(config, data_name, seeds, path),
        path,
    )


def parse_arms(texts: Iterable[str]) -> dict[str, dict[str, object]]:
    """Parse "name: key=value key=value" into {name: {key: value}}, keys as in `--config.key`.

    Raises:
      UserError: an arm has no name, two arms have the same name, a word is not key=value, or there
        are fewer than two arms.
    """
    arms: dict[str, dict[str, object]] = {}
    for text in texts:
        name, colon, rest = text.partition(":")
        name = name.strip()
        if not colon or not name.replace("+", "").replace("_", "").replace("-", "").isalnum():
            raise UserError(
                f"The arm '{text}' must have the form 'name: key=value key=value'; a name has only "
                "letters, digits, '+', '-' and '_'."
            )
        if name in arms:
            raise UserError(f"Two arms of the comparison have the name '{name}'; rename one.")
        overrides = {}
        for word in rest.split():
            key, equals, value = word.partition("=")
            if not equals:
                raise UserError(
                    f"The arm '{name}' has '{word}'; give overrides as key=value, such as "
                    "curriculum.enabled=False."
                )
            overrides[key.removeprefix("config.")] = _value(value)
        arms[name] = overrides
    if len(arms) < 2:
        raise UserError(
            f"config.compare.arms has {len(arms)} arm(s); give at least two: the first is the "
            "baseline."
        )
    return arms


def _value(text: str) -> object:
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text


def _arm_config(
    config: ConfigDict,
    overrides: dict[str, object],
    seed: int,
    path: epath.Path,
    num_examples: int,
) -> ConfigDict:
    result = _with_overrides(config, overrides)
    result.seed = config.seed + seed
    total = from_config.steps(result, "train.duration", num_examples)
    result.evaluate.every = f"{max(1, total // config.compare.evaluations)} steps"
    result.evaluate.emas = ()
    # Arms may have clusters of their own; their losses are compared on the same intervals of u.
    result.validation.clusters = config.validation.clusters or config.curriculum.num_clusters
    result.evaluate.reference_cache = str(path / "references")  # computed once for all runs
    return result


def _with_overrides(config: ConfigDict, overrides: dict[str, object]) -> ConfigDict:
    """A copy of the config with the overrides of one arm.

    Raises:
      UserError: a key that does not exist or that all arms share, or a value of another type.
    """
    known = flatten(config)
    for key in overrides:
        if key not in known:
            raise unknown_key(key)
        if key.startswith(_SHARED):
            raise UserError(
                f"An arm overrides '{key}', which must be the same in all arms; set it for all "
                f"arms with --config.{key}."
            )
    result = ConfigDict(config.to_dict(), type_safe=False)
    result.update_from_flattened_dict(overrides)
    check_keys(result)
    with_fitted_edges(result)
    return result


def _check_arms(configs: dict[tuple[str, int], ConfigDict]) -> None:
    """Raise UserError if two arms are the same or an arm cannot be built, before any training."""
    known: dict[str, str] = {}
    for (name, seed), config in configs.items():
        if seed:
            continue
        content = json.dumps(flatten(config), sort_keys=True, default=str)
        if content in known:
            raise UserError(f"The arms '{known[content]}' and '{name}' are the same; remove one.")
        known[content] = name
        train_source, _ = from_config.data(config)
        model = from_config.model(config)
        mesh = from_config.mesh(config)
        open_all_at = from_config.open_all_at(config, train_source.size)
        from_config.training(config, model, mesh.size, train_source.size, open_all_at)
        from_config.sampler(config, model)


def _check_settings(path: epath.Path, config: ConfigDict) -> None:
    """Raise UserError if the folder has a comparison with other arms or another config."""
    mine = {
        "arms": parse_arms(config.compare.arms),
        "config": identity(config) | {"train.duration": config.train.duration},
        "evaluations": config.compare.evaluations,
    }
    mine = json.loads(json.dumps(mine))
    file = path / "settings.json"
    if not file.exists():
        path.mkdir(parents=True, exist_ok=True)
        atomic.write(file, json.dumps(mine, indent=1))
        return
    if differing := _differing(mine, json.loads(file.read_text())):
        raise UserError(
            f"The workdir {path} has a comparison with other {' and '.join(differing)}; use "
            "another --workdir, or the same arms and config (you may add seeds)."
        )


def _differing(mine: dict[str, Any], saved: dict[str, Any]) -> list[str]:
    """Return which of "arms", "config" and "evaluations" differ from a saved comparison.

    The saved keys may be those of an earlier version.
    """
    defaults = json.loads(json.dumps(flatten(default_config())))
    ours, theirs = defaults | mine["config"], defaults | translated(saved["config"])
    arms = {name: translated(overrides) for name, overrides in saved["arms"].items()}

    def same_arm(name: str) -> bool:
        one, other = ours | mine["arms"][name], theirs | arms[name]
        return all(one[key] == other.get(key) for key in mine["arms"][name] | arms[name])

    same = {
        "arms": [*mine["arms"]] == [*arms] and all(same_arm(name) for name in arms),
        "config": all(ours[key] == theirs[key] for key in mine["config"]),
        "evaluations": mine["evaluations"] == saved["evaluations"],
    }
    return [key for key, equal in same.items() if not equal]


def _run(path: epath.Path, name: str, seed: int) -> epath.Path:
    return path / "runs" / name / f"seed_{seed}"


def _last_grid(run: epath.Path) -> bytes | None:
    """Return the newest grid of samples of a run, as PNG."""
    grids = sorted((run / "samples").glob("step_*.png"))
    return grids[-1].read_bytes() if grids else None


def _conditions(config: ConfigDict, data_name: str, seeds: int, path: epath.Path) -> dict[str, str]:
    """Return the conditions that all arms share, and the overrides of each arm."""
    about = describe_samples(config, 0, config.evaluate.num)
    del about["step"]
    conditions = {
        "data": data_name,
        "family": config.process.name,
        "training": f"{config.train.duration}, batch {config.train.batch_size}, seeds "
        f"{config.seed} to {config.seed + seeds - 1}",
        "samples": ", ".join(f"{key} {value}" for key, value in about.items()),
        "reference": ", ".join(sorted(file.stem for file in (path / "references").glob("*.npz"))),
        "versions": ", ".join(f"{p} {version(p)}" for p in ("jax", "flax", "optax", "numpy")),
    }
    for text in config.compare.arms:
        name, _, overrides = text.partition(":")
        conditions[f"arm {name.strip()}"] = overrides.strip()
    return conditions
