"""--mode=compare: several ways of training on one data set, under equal conditions."""

import ast
import csv
import io
import json
import math
from importlib.metadata import version

import numpy as np
from etils import epath
from ml_collections import ConfigDict

from cdt import build
from cdt.comparison import figures, statistics
from cdt.comparison.page import page
from cdt.comparison.statistics import Arm
from cdt.config import check_keys, flatten, identity, unknown_key, with_fitted_edges
from cdt.errors import EXIT_FINISHED, UserError, user_errors
from cdt.sample import describe
from cdt.train import train
from cdt.writers import read_history


def compare(config: ConfigDict, workdir: str) -> int:
    """Trains every arm of `config.compare.arms` with every seed and compares them with the first.

    Runs lie in `<workdir>/runs/<arm>/seed_<s>`; running the same command again goes on with what is
    unfinished. Arms differ by their overrides alone: initial weights, order of the data and noise
    of the samples are those of the seed. Leaves comparison.json, comparison.csv and index.html.
    """
    path = epath.Path(workdir)
    with user_errors():
        configs = {
            (name, seed): _arm_config(config, overrides, seed, path)
            for name, overrides in parse_arms(config.compare.arms).items()
            for seed in range(config.compare.seeds)
        }
        if config.compare.seeds < 1:
            raise UserError(f"config.compare.seeds is {config.compare.seeds}; give at least 1.")
        _check_arms(configs)
        _check_settings(path, config)

    for i, ((name, seed), arm_config) in enumerate(configs.items(), 1):
        print(f"--- {name}, seed {seed} ({i} of {len(configs)})")
        exit_code = train(arm_config, str(_run(path, name, seed)))
        if exit_code != EXIT_FINISHED:
            return exit_code
    return _report(config, configs, path)


def parse_arms(texts) -> dict[str, dict[str, object]]:
    """ "name: key=value key=value" -> {name: {key: value}}, keys as in `--config.key`.

    Raises:
      UserError: an arm without a name, two of one name or with the same overrides, or a word that
        is no key=value.
    """
    arms: dict[str, dict[str, object]] = {}
    for text in texts:
        name, colon, rest = text.partition(":")
        name = name.strip()
        if not colon or not name.replace("+", "").replace("_", "").replace("-", "").isalnum():
            raise UserError(
                f"The arm '{text}' is not of the form 'name: key=value key=value', with a name of "
                "letters, digits, '+', '-' and '_'."
            )
        if name in arms:
            raise UserError(f"Two arms of the comparison are called '{name}'; rename one.")
        overrides = {}
        for word in rest.split():
            key, equals, value = word.partition("=")
            if not equals:
                raise UserError(
                    f"The arm '{name}' has '{word}', which is not of the form key=value."
                )
            overrides[key.removeprefix("config.")] = _value(value)
        arms[name] = overrides
    if len(arms) < 2:
        raise UserError("config.compare.arms needs at least two arms; the first is the baseline.")
    return arms


def _value(text: str) -> object:
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text


def _arm_config(
    config: ConfigDict, overrides: dict[str, object], seed: int, path: epath.Path
) -> ConfigDict:
    known = flatten(config)
    for key in overrides:
        if key not in known:
            raise unknown_key(key)
    result = ConfigDict(config.to_dict(), type_safe=False)
    result.update_from_flattened_dict(overrides)
    result.seed = config.seed + seed
    check_keys(result)
    with_fitted_edges(result)
    if not config.compare.evaluations >= 1:
        raise UserError(
            f"config.compare.evaluations is {config.compare.evaluations}; give at least 1."
        )
    num_examples = build.data(result)[0].size
    total = build.steps(result, "train.duration", num_examples)
    result.evaluate.every = f"{max(1, total // config.compare.evaluations)} steps"
    result.evaluate.emas = ()
    result.evaluate.reference_cache = str(path / "references")  # computed once for all runs
    return result


def _check_arms(configs: dict[tuple[str, int], ConfigDict]) -> None:
    """Raises UserError for arms that are alike or that cannot be built, before any is trained."""
    known: dict[str, str] = {}
    for (name, seed), config in configs.items():
        if seed:
            continue
        content = json.dumps(flatten(config), sort_keys=True, default=str)
        if content in known:
            raise UserError(f"The arms '{known[content]}' and '{name}' are alike; remove one.")
        known[content] = name
        train_source, _ = build.data(config)
        model = build.model(config)
        mesh = build.mesh(config)
        open_all_at = build.open_all_at(config, train_source.size)
        build.training(config, model, mesh.size, train_source.size, open_all_at)
        build.sampler(config, model)


def _check_settings(path: epath.Path, config: ConfigDict) -> None:
    """Raises UserError if the folder holds a comparison of other arms or of another config."""
    mine = {
        "arms": parse_arms(config.compare.arms),
        "config": identity(config) | {"train.duration": config.train.duration},
        "evaluations": config.compare.evaluations,
    }
    mine = json.loads(json.dumps(mine))
    file = path / "settings.json"
    if not file.exists():
        path.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(mine, indent=1))
        return
    saved = json.loads(file.read_text())
    if saved != mine:
        differing = [key for key in mine if saved.get(key) != mine[key]]
        raise UserError(
            f"The workdir {path} holds a comparison with other {' and '.join(differing)}; use "
            "another --workdir, or its arms and config (more seeds may be added)."
        )


def _run(path: epath.Path, name: str, seed: int) -> epath.Path:
    return path / "runs" / name / f"seed_{seed}"


def _arm(path: epath.Path, name: str, seeds: int, metric: str) -> Arm:
    """What the histories of an arm's runs say."""
    steps, values, seconds, validation, stages = [], [], [], [], []
    for seed in range(seeds):
        history = read_history(_run(path, name, seed))
        evaluated = [record for record in history if metric in record]
        steps.append([record["step"] for record in evaluated])
        values.append([record[metric] for record in evaluated])
        seconds.append([record["time"] - history[0]["time"] for record in evaluated])
        last = [r for r in history if "validation_loss" in r][-1]
        validation.append([v for k, v in last.items() if k.startswith("validation_loss/")])
        logged = [r for r in history if "loss" in r][-1]
        stages.append([int(v) for k, v in logged.items() if k.startswith("stage_length/")])
    return Arm(
        name, np.array(steps[0]), np.array(values), np.array(seconds), np.array(validation),
        np.array(stages) if stages[0] else None,
    )  # fmt: skip


def _report(config: ConfigDict, configs: dict, path: epath.Path) -> int:
    names = list(dict.fromkeys(name for name, _ in configs))
    seeds, space = config.compare.seeds, config.evaluate.features
    arms = []
    for name in names:
        average = build.ema_name(configs[name, 0])
        key = f"evaluation_{space}/frechet/ema_{average}"
        arms.append(_arm(path, name, seeds, key))
    baseline, comparisons = arms[0], len(arms) - 1
    metric = f"Frechet distance ({space})"
    verdicts = [statistics.verdict(arm, baseline, metric, comparisons) for arm in arms[1:]]

    records, rows = [], []
    for arm in arms:
        final = arm.metric[:, -1]
        found = statistics.difference(final, baseline.metric[:, -1], comparisons)
        soon = statistics.reach(arm, baseline)
        records.append(
            {
                "arm": arm.name,
                "final_mean": float(final.mean()),
                "final_deviation": float(final.std(ddof=1)) if seeds > 1 else None,
                "difference": found.mean,
                "low": found.low,
                "high": found.high,
                "verdict": "baseline" if arm is baseline else found.verdict,
                "seeds_that_reach_baseline": soon.seeds,
                "steps_to_baseline": soon.steps,
                "share_of_steps": soon.share,
                "share_of_seconds": soon.seconds_share,
                "seconds": float(arm.seconds[:, -1].mean()),
            }
        )
        rows.append(_row(records[-1]))
    everything = {
        "metric": metric,
        "seeds": seeds,
        "arms": {
            arm.name: {k: _plain(v) for k, v in arm._asdict().items() if k != "name"}
            | {"overrides": parse_arms(config.compare.arms)[arm.name]}
            for arm in arms
        },
        "results": [{k: _plain(v) for k, v in record.items()} for record in records],
        "verdicts": verdicts,
    }
    (path / "comparison.json").write_text(json.dumps(everything, indent=1))
    text = io.StringIO()
    writer = csv.DictWriter(text, list(records[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(records)
    (path / "comparison.csv").write_text(text.getvalue())

    about = describe(config, int(baseline.steps[-1]), config.evaluate.num)
    conditions = {
        "data": config.data.name,
        "family": config.process.name,
        "training": f"{config.train.duration}, batch {config.train.batch_size}, {seeds} seeds",
        "metric": f"{metric} of {config.evaluate.num} samples to the training images",
        "reference": ", ".join(sorted(file.stem for file in (path / "references").glob("*.npz"))),
        "sampling": ", ".join(f"{k} {v}" for k, v in about.items() if k not in ("step", "n")),
        "intervals": f"paired t over seeds, 95 % for all {comparisons} comparisons (Bonferroni)",
        "versions": ", ".join(f"{p} {version(p)}" for p in ("jax", "flax", "optax", "numpy")),
    }
    for arm in arms:
        overrides = parse_arms(config.compare.arms)[arm.name]
        conditions[f"arm {arm.name}"] = " ".join(f"{k}={v}" for k, v in overrides.items())
        if arm.stage_lengths is not None:
            conditions[f"stages of {arm.name}, seed 0"] = str(arm.stage_lengths[0].tolist())
    grids = {}
    for name in names:
        pictures = sorted((_run(path, name, 0) / "samples").glob("step_*.png"))
        if pictures:
            grids[name] = pictures[-1].read_bytes()
    header = ["arm", "final", "minus baseline", "", "reaches baseline's end", "seconds a run"]
    (path / "index.html").write_text(
        page(
            f"{config.data.name}, {config.process.name}: {len(arms)} ways of training",
            verdicts,
            header,
            rows,
            {
                f"{metric} over training": figures.metric_plot(arms, metric),
                "Final difference": figures.difference_plot(arms, metric),
                "Where it is gained or lost": figures.validation_plot(arms),
            },
            grids,
            conditions,
        )  # fmt: skip
    )
    print("\n".join(verdicts))
    print(f"see {path / 'index.html'}")
    return EXIT_FINISHED


def _row(record: dict) -> list[str]:
    """The cells of an arm in the page's table."""
    deviation, low = record["final_deviation"], record["low"]
    final = f"{record['final_mean']:.4g}" + ("" if deviation is None else f" ± {deviation:.2g}")
    change, soon = "", ""
    if record["verdict"] != "baseline":
        change = f"{record['difference']:+.2g}"
        if low is not None:
            change += f" [{low:+.2g}, {record['high']:+.2g}]"
        soon = "never"
        if record["seeds_that_reach_baseline"]:
            soon = (
                f"{record['share_of_steps']:.0%} of steps, {record['share_of_seconds']:.0%} of time"
            )
    return [record["arm"], final, change, record["verdict"], soon, f"{record['seconds']:.0f}"]


def _plain(value):
    if isinstance(value, np.ndarray):
        return value.tolist()
    return None if isinstance(value, float) and math.isnan(value) else value
