"""A comparison of a few steps from end to end: equal conditions, resume, wrong input."""

import csv
import json
import signal

import numpy as np
import pytest

from cdt.config import flatten
from cdt.errors import UserError
from cdt.modes import compare as mode
from cdt.monitoring.progress import Progress
from smoke_runs import arrays, assert_same_arrays, load, smoke

ARMS = (
    "uniform: curriculum.enabled=False",
    # Fewer and different clusters than the baseline; all arms are validated on the same intervals.
    "curriculum: curriculum.enabled=True curriculum.patience.steps=2 curriculum.num_clusters=3 "
    "curriculum.spacing=snr",
    # A post-hoc EMA, combined from the checkpoints that each run has so far.
    "posthoc: sample.ema=posthoc0.15",
)


def config(**overrides):
    return smoke(
        **{"compare.arms": ARMS, "compare.seeds": 2, "compare.evaluations": 2,
           "evaluate.num": 40, "train.duration": "8 steps", "sample.steps": 2,
           "ema.power_stds": (0.05, 0.1), "checkpoint.every": "4 steps", "checkpoint.keep": 9}
        | overrides
    )  # fmt: skip


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    path = tmp_path_factory.mktemp("compare")
    assert mode.compare(config(), str(path)) == 0
    return path


@pytest.mark.slow
def test_files_of_a_comparison(finished):
    found = json.loads((finished / "comparison.json").read_text())
    assert [*found["arms"]] == ["uniform", "curriculum", "posthoc"]
    assert found["conditions"]["arm curriculum"] == ARMS[1].partition(": ")[2]
    assert found["conditions"]["data"] == "digits/train"
    for arm in found["arms"].values():
        assert arm["steps"] == [4, 8] and np.array(arm["metric"]).shape == (2, 2)
        assert np.array(arm["validation"]).shape == (2, len(arm["validation_steps"]), 4)
        assert {"precision", "recall", "kernel", "validation_loss"} <= arm["others"].keys()
    assert found["arms"]["uniform"]["stage_lengths"] is None
    assert np.sum(found["arms"]["curriculum"]["stage_lengths"], axis=1).tolist() == [8, 8]
    base, *others = found["results"]
    assert base["verdict"] == "baseline" and base["difference"] == 0
    finals = [np.array(found["arms"][name]["metric"])[:, -1] for name in found["arms"]]
    for other, final in zip(others, finals[1:], strict=True):
        np.testing.assert_allclose(other["difference"], (final - finals[0]).mean())
        assert other["difference"] != 0
    with (finished / "comparison.csv").open() as file:
        assert [row["arm"] for row in csv.DictReader(file)] == [*found["arms"]]
    text = (finished / "index.html").read_text()
    assert found["verdicts"][0].split(":")[0] in text and "reference-" in text
    assert "digits/train, flow: 3 ways of training" in text


@pytest.mark.slow
def test_arms_start_from_the_same_weights_and_seeds_do_not(finished):
    def first_validation(arm, seed):
        lines = (
            (finished / "runs" / arm / f"seed_{seed}" / "metrics.jsonl").read_text().splitlines()
        )
        record = next(r for r in map(json.loads, lines) if "validation_loss" in r)
        return record["step"], record["validation_loss"]

    assert first_validation("uniform", 0) == first_validation("curriculum", 0)
    assert first_validation("uniform", 0) != first_validation("uniform", 1)


@pytest.mark.slow
def test_running_again_trains_nothing_and_writes_the_same(finished, capsys):
    before = (finished / "comparison.json").read_text()
    params = arrays(finished / "runs" / "curriculum" / "seed_1")
    assert mode.compare(config(), str(finished)) == 0
    assert (finished / "comparison.json").read_text() == before
    assert capsys.readouterr().out.count("finished already") == 6
    again = arrays(finished / "runs" / "curriculum" / "seed_1")
    assert_same_arrays(params, again)


@pytest.mark.slow
def test_a_signal_stops_it_and_it_resumes(tmp_path, monkeypatch):
    report = tmp_path / "comparison.json"
    steps = []
    for due in (lambda: len(steps) == 3, report.exists):  # in the first run; with the second seed
        assert not report.exists()

        def update(progress, done, due=due, **kwargs):
            steps.append(done)
            if due():
                signal.raise_signal(signal.SIGTERM)

        with monkeypatch.context() as patch:
            patch.setattr(Progress, "update", update)
            assert mode.compare(config(), str(tmp_path)) == 75
    found = json.loads(report.read_text())
    assert [record["seeds"] for record in found["results"]] == [1, 1, 1]
    assert "One seed gives no confidence interval" in found["verdicts"][0]


@pytest.mark.parametrize("variant", ["digits,flow", "digits,ddpm", "digits,flow,sift",
                                     "digits,ddpm,sift", "digits,ddpm,peers"])  # fmt: skip
def test_the_shipped_comparisons_can_be_built(tmp_path, monkeypatch, variant):
    """Everything except training; the arms `measured` use the files of a difficulty study."""
    monkeypatch.chdir(tmp_path)
    shipped = load("compare", variant)
    if "peers" not in variant:
        with pytest.raises(UserError, match="does not exist"):
            mode.compare(shipped, str(tmp_path))
    study = tmp_path / "runs" / f"study_digits_{variant.split(',')[1]}" / "difficulty"
    study.mkdir(parents=True)
    (study / "curriculum.json").write_text('{"edges": [0.0, 0.3, 1.0], "order": "2,1"}')
    trained = []
    monkeypatch.setattr(mode, "train", lambda config, path: trained.append(path) or 75)
    assert mode.compare(shipped, str(tmp_path)) == 75 and len(trained) == 1


BAD = {
    "no such key": (("a: ", "b: density.nam=uniform"), "did you mean 'density.name'"),
    "an old key": (("a: ", "b: timesteps.patience=3"), "is now 'curriculum.patience.steps'"),
    "same arms": (
        ("a: density.name=uniform", "b: density.name='uniform'"),
        "'a' and 'b' are the same",
    ),
    "one name": (("a: seed=1", "a: seed=2"), "have the name 'a'"),
    "one arm": (("a: ",), "at least two"),
    "no name": (("curriculum.enabled=False", "b: "), "must have the form 'name:"),
    "no value": (("a: ", "b: uniform"), "give overrides as key=value"),
    "wrong type": (("a: ", "b: train.batch_size=x"), "must be an int"),
    "unequal data": (("a: ", "b: data.flip=True"), "overrides 'data.flip', which must be the same"),
    "cannot be built": (
        ("a: ", "b: curriculum.enabled=False density.name=unifrom"),
        "did you mean 'uniform'",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_arms_are_refused_before_anything_is_trained(tmp_path, name):
    arms, words = BAD[name]
    with pytest.raises(UserError, match=words):
        mode.compare(config(**{"compare.arms": arms}), str(tmp_path))
    assert not (tmp_path / "runs").exists()


@pytest.mark.slow
@pytest.mark.parametrize(
    "overrides, words",
    [({"compare.arms": (*ARMS, "p2: loss.weight=p2")}, "other arms"),
     ({"train.batch_size": 16}, "other config"), ({"compare.evaluations": 4}, "other evaluations"),
     ({"compare.seeds": 0}, "at least 1")],
)  # fmt: skip
def test_another_comparison_in_the_same_folder_is_refused(finished, overrides, words):
    with pytest.raises(UserError, match=words):
        mode.compare(config(**overrides), str(finished))


def test_what_a_peer_changes_can_be_an_arm(tmp_path):
    """The methods that are no timestep sampler and no loss weight."""
    for key, value in {
        "train.augment": 0.15,
        "model.routing": True,
        "sample.sampler": "dpm_solver",
    }.items():
        assert flatten(mode._arm_config(smoke(), {key: value}, 0, tmp_path, 100))[key] == value


def test_a_comparison_of_an_earlier_version_goes_on():
    """A settings.json as version 0.1.0 wrote it, with its keys."""
    base = {"optim.lr": 0.5, "train.duration": "8 steps"}
    timesteps = {"timesteps.name": "curriculum", "timesteps.density": "uniform",
                 "timesteps.patience": 7}  # fmt: skip
    old_arms = {
        "uniform": {"timesteps.name": "uniform"},
        "curriculum": {"timesteps.name": "curriculum"},
        "p2": {"timesteps.name": "logit_normal", "loss.weight": "p2", "loss.p2_k": 2},
    }
    saved = {"arms": old_arms, "config": base | timesteps, "evaluations": 2}
    arms = {
        "uniform": {"curriculum.enabled": False},
        "curriculum": {},
        "p2": {"curriculum.enabled": False, "density.name": "logit_normal", "loss.weight": "p2",
               "loss.p2.k": 2},
    }  # fmt: skip
    mine = {"arms": arms, "config": base | {"curriculum.patience.steps": 7}, "evaluations": 2}
    assert mode._differing(mine, saved) == [] == mode._differing(mine, mine)
    other = arms | {"p2": arms["p2"] | {"loss.p2.k": 3}}
    assert mode._differing(mine | {"arms": other}, saved) == ["arms"]
    patient = base | {"curriculum.patience.steps": 8}
    assert mode._differing(mine | {"config": patient, "evaluations": 3}, saved) == [
        "config", "evaluations"
    ]  # fmt: skip
