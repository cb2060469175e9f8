"""Renamed config keys of version 0.1.0, to read the configs of saved runs."""

import re
from collections.abc import Mapping

# old key -> the keys that replace it.
MOVED = {
    "data.max_bad_share": ("data.max_bad_fraction",),
    "loss.min_snr_gamma": ("loss.min_snr.gamma",),
    "loss.p2_gamma": ("loss.p2.gamma",),
    "loss.p2_k": ("loss.p2.k",),
    "sample.churn": ("sample.heun.S_churn",),
    "sample.churn_max": ("sample.heun.S_max",),
    "sample.churn_min": ("sample.heun.S_min",),
    "sample.churn_noise": ("sample.heun.S_noise",),
    "sample.eta": ("sample.ddim.eta",),
    "sample.last_step": ("sample.euler_maruyama.last_step",),
    "timesteps.clusters": ("curriculum.spacing",),
    "timesteps.density": ("density.name",),
    "timesteps.edges": ("curriculum.edges",),
    "timesteps.edges_file": ("curriculum.edges_file",),
    "timesteps.logit_mean": ("density.logit_normal.mean", "density.two_phase.mean"),
    "timesteps.logit_std": ("density.logit_normal.std", "density.two_phase.std"),
    "timesteps.max_share": ("curriculum.max_fraction",),
    "timesteps.max_stage_steps": ("curriculum.patience.max_stage_steps",),
    "timesteps.min_delta": ("curriculum.patience.min_delta",),
    "timesteps.name": ("curriculum.enabled", "density.name"),
    "timesteps.num_bins": ("density.second_moment.num_bins", "density.info_noise.num_bins"),
    "timesteps.num_clusters": ("curriculum.num_clusters",),
    "timesteps.order": ("curriculum.order",),
    "timesteps.pacing": ("curriculum.pacing",),
    "timesteps.patience": ("curriculum.patience.steps",),
    "timesteps.smoothing": ("curriculum.patience.smoothing",),
    "timesteps.speed_k": ("density.speed.k",),
    "timesteps.speed_lambda": ("density.speed.lam",),
    "timesteps.speed_tau": ("density.speed.tau",),
    "timesteps.steps_per_stage": ("curriculum.fixed.steps_per_stage",),
    "timesteps.switch_share": ("density.two_phase.switch_fraction",),
}
# With this value of `timesteps.name` the density was `timesteps.density`; every other value was
# the density itself.
_CURRICULUM = "curriculum"


def translated(flat: Mapping[str, object]) -> dict[str, object]:
    """Return a flat config, or a part of one, with old keys replaced by new ones.

    The keys in `compare.arms` are replaced too. Other keys are unchanged.
    """
    new: dict[str, object] = {}
    for key, value in flat.items():
        if key == "compare.arms" and isinstance(value, (list, tuple)):
            value = [_translated_arm(arm) for arm in value]
        if key != "timesteps.name":
            new |= dict.fromkeys(MOVED.get(key, (key,)), value)
    if (name := flat.get("timesteps.name")) is not None:
        new["curriculum.enabled"] = name == _CURRICULUM
        if name != _CURRICULUM:  # `timesteps.density` was ignored then
            new["density.name"] = name
    return new


def _translated_arm(arm: str) -> str:
    """Return an arm "name: key=value ..." with new keys."""
    name, colon, rest = arm.partition(":")
    words = [word.partition("=") for word in rest.split()]
    if not any(key in MOVED for key, _, _ in words):
        return arm
    new = translated({key: value for key, _, value in words})
    return f"{name}{colon} {' '.join(f'{key}={value}' for key, value in new.items())}"


def moved_in(line: str) -> str | None:
    """Return a sentence about the old key in a line of a config file, or None without one."""
    found = next((key for key in MOVED if re.search(rf"\b{re.escape(key)}\b", line)), None)
    if found is None and re.search(r"\.timesteps\b", line):
        return (
            "The config section 'timesteps' is now 'density' and 'curriculum'; give the new keys, "
            "which CHANGELOG.md lists."
        )
    return found and moved(found)


def moved(key: str) -> str | None:
    """Return a sentence with the new name of an old key; None for every other key."""
    if key not in MOVED:
        return None
    new = " and ".join(f"'{name}'" for name in MOVED[key])
    return f"The config key '{key}' is now {new}; give {'these' if ' and ' in new else 'that'}."
