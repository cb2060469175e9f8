"""Configs that version 0.1.0 saved: each old key is read, or its message names the new one."""

import json

import pytest

from cdt.config import default_config, flatten, unknown_key
from cdt.config.old_keys import MOVED, moved, translated
from cdt.workdir.record import check_identity, recorded_config
from front_door import cdt

# The section `timesteps` of version 0.1.0 with values that no default has.
OLD = {
    "timesteps.name": "curriculum",
    "timesteps.density": "logit_normal",
    "timesteps.num_clusters": 3,
    "timesteps.clusters": "custom",
    "timesteps.edges": [0.0, 0.2, 0.7, 1.0],
    "timesteps.edges_file": "",
    "timesteps.order": "hard_to_easy",
    "timesteps.pacing": "fixed",
    "timesteps.patience": 11,
    "timesteps.smoothing": 0.25,
    "timesteps.min_delta": 0.125,
    "timesteps.max_stage_steps": 12,
    "timesteps.max_share": 0.75,
    "timesteps.steps_per_stage": 13,
    "timesteps.logit_mean": -0.5,
    "timesteps.logit_std": 0.8,
    "timesteps.num_bins": 14,
    "timesteps.switch_share": 0.3,
    "timesteps.speed_tau": 600,
    "timesteps.speed_k": 5.0,
    "timesteps.speed_lambda": 0.7,
}
NEW = {
    "density.name": "logit_normal",
    "density.logit_normal.mean": -0.5,
    "density.logit_normal.std": 0.8,
    "density.second_moment.num_bins": 14,
    "density.info_noise.num_bins": 14,
    "density.two_phase.mean": -0.5,
    "density.two_phase.std": 0.8,
    "density.two_phase.switch_fraction": 0.3,
    "density.speed.tau": 600,
    "density.speed.k": 5.0,
    "density.speed.lam": 0.7,
    "curriculum.enabled": True,
    "curriculum.num_clusters": 3,
    "curriculum.spacing": "custom",
    "curriculum.edges": [0.0, 0.2, 0.7, 1.0],
    "curriculum.edges_file": "",
    "curriculum.order": "hard_to_easy",
    "curriculum.pacing": "fixed",
    "curriculum.max_fraction": 0.75,
    "curriculum.patience.steps": 11,
    "curriculum.patience.smoothing": 0.25,
    "curriculum.patience.min_delta": 0.125,
    "curriculum.patience.max_stage_steps": 12,
    "curriculum.fixed.steps_per_stage": 13,
}


def test_every_key_of_the_section_is_translated():
    assert translated(OLD) == NEW
    assert OLD.keys() == {key for key in MOVED if key.startswith("timesteps.")}
    sections = ("density.", "curriculum.")
    assert NEW.keys() == {k for k in flatten(default_config()) if k.startswith(sections)}


def test_every_new_key_is_in_the_schema_and_no_old_one_is():
    known = flatten(default_config())
    assert {name for names in MOVED.values() for name in names} <= known.keys()
    assert not MOVED.keys() & known.keys()


@pytest.mark.parametrize(
    "name", ["uniform", "logit_normal", "second_moment", "info_noise", "two_phase", "speed"]
)
def test_a_name_without_a_curriculum_was_the_density(name):
    new = translated(OLD | {"timesteps.name": name, "timesteps.density": "info_noise"})
    assert (new["curriculum.enabled"], new["density.name"]) == (False, name)


def test_keys_of_this_version_stay():
    flat = flatten(default_config())
    assert translated(flat).items() >= {k: v for k, v in flat.items() if k[:7] != "compare"}.items()


def test_arms_are_translated():
    arms = [
        "uniform: timesteps.name=uniform loss.weight=p2 loss.p2_k=2",
        "a+b: timesteps.name=curriculum timesteps.density=info_noise timesteps.patience=5",
        "plain: optim.lr=1",
        "same:",
    ]
    assert translated({"compare.arms": arms})["compare.arms"] == [
        "uniform: loss.weight=p2 loss.p2.k=2 curriculum.enabled=False density.name=uniform",
        "a+b: density.name=info_noise curriculum.patience.steps=5 curriculum.enabled=True",
        "plain: optim.lr=1",
        "same:",
    ]


def test_an_old_key_is_answered_with_the_new_one():
    assert moved("optim.lr") is None
    assert "now 'curriculum.patience.steps'; give that" in str(unknown_key("timesteps.patience"))
    assert "'curriculum.enabled' and 'density.name'; give these" in moved("timesteps.name")


def test_a_workdir_of_an_old_run_is_read_and_recognised(tmp_path):
    defaults = flatten(default_config())
    kept = {k: v for k, v in defaults.items() if not k.startswith(("density.", "curriculum."))}
    (tmp_path / "config.json").write_text(json.dumps(kept | OLD))
    config = recorded_config(tmp_path)
    assert config.curriculum.edges == (0.0, 0.2, 0.7, 1.0)
    assert config.density.logit_normal.mean == -0.5 and config.curriculum.max_fraction == 0.75
    check_identity(tmp_path, config)


@pytest.mark.parametrize(
    "line, words",
    [("config.timesteps.patience = 5", "'timesteps.patience' is now 'curriculum.patience.steps'"),
     ("config.loss.p2_k = 2.0", "'loss.p2_k' is now 'loss.p2.k'"),
     ("c = config.timesteps", "'timesteps' is now 'density' and 'curriculum'"),
     ("config.model.nothing.width = 5", "no key 'model.nothing.width'")],
)  # fmt: skip
def test_an_old_key_in_a_config_file_is_answered_with_the_new_one(line, words, tmp_path):
    body = f"    config = default_config()\n    {line}\n    return config\n"
    text = f"from cdt.config import default_config\n\ndef get_config(variant=''):\n{body}"
    (tmp_path / "old.py").write_text(text)
    refused = cdt(f"--config={tmp_path}/old.py", f"--workdir={tmp_path}/run")
    assert refused.returncode == 2 and words in refused.stderr
