"""The difficulty study from end to end on a few steps, stopped, resumed, and used by a run."""

import json
import signal

import numpy as np
import pytest
from PIL import Image

from cdt.config import check_keys, with_fitted_edges
from cdt.errors import UserError
from cdt.modes import difficulty as mode
from cdt.monitoring.progress import Progress
from smoke_runs import smoke


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    path = tmp_path_factory.mktemp("study")
    assert mode.difficulty(smoke(), str(path)) == 0
    return path / "difficulty"


@pytest.mark.long  # of a study
def test_what_a_study_leaves(finished):
    names = {p.name for p in finished.iterdir()}
    assert {"convergence", "relative_entropy"} <= {n.partition(".")[0] for n in names}
    for plot in ("convergence.png", "relative_entropy.png", "steps_to.png"):
        assert min(Image.open(finished / plot).size) > 100
    found = json.loads((finished / "convergence.json").read_text())
    losses = np.array(found["losses"])
    assert found["steps"] == [0, 3, 6, 9, 12] and losses.shape == (1, 5, 4)
    assert np.all(losses[0, -1] < losses[0, 0])
    # All curves start from the same parameters, so equal levels have equal losses.
    assert (finished / "convergence.csv").read_text().count("\n") == 1 + 4
    assert (finished / "relative_entropy.csv").read_text().count("\n") == 1 + 10
    text = (finished / "verdict.txt").read_text()
    assert "converge more slowly? Undecided" in text and "one seed gives no interval" in text


@pytest.mark.long  # of a study
def test_only_missing_clusters_are_trained_again_with_the_same_result(
    finished, tmp_path, monkeypatch
):
    curve = finished / "curves" / "seed_0_cluster_03.json"
    before = {p.name: p.read_text() for p in (finished / "curves").iterdir()}
    curve.unlink()
    stamps = {p: p.stat().st_mtime_ns for p in (finished / "curves").iterdir()}
    assert mode.difficulty(smoke(), str(finished.parent)) == 0
    assert {p.name: p.read_text() for p in (finished / "curves").iterdir()} == before
    assert all(p.stat().st_mtime_ns == stamp for p, stamp in stamps.items())


@pytest.mark.long  # of a study
def test_a_signal_ends_the_study_and_loses_one_cluster_at_most(tmp_path, monkeypatch, capsys):
    def update(progress, done, **kwargs):
        if done == 20:  # of 12 steps a cluster
            signal.raise_signal(signal.SIGTERM)

    with monkeypatch.context() as patch:
        patch.setattr(Progress, "update", update)
        assert mode.difficulty(smoke(), str(tmp_path)) == 75
    assert "run the same command" in capsys.readouterr().out
    curves = tmp_path / "difficulty" / "curves"
    assert [p.name for p in curves.iterdir()] == ["seed_0_cluster_01.json"]


@pytest.mark.long  # a second study
def test_a_model_a_device_gives_the_curves_of_each_model_over_all_devices(finished, tmp_path):
    """Four clusters on eight devices: half of the devices train repeats, which are dropped."""
    assert mode.difficulty(smoke(**{"difficulty.side_by_side": True}), str(tmp_path)) == 0
    for file in (finished / "curves").iterdir():
        expected = json.loads(file.read_text())
        found = json.loads((tmp_path / "difficulty" / "curves" / file.name).read_text())
        np.testing.assert_allclose(found.pop("losses"), expected.pop("losses"), rtol=1e-4)
        assert found == expected


@pytest.mark.long  # of a study
def test_other_settings_in_the_same_folder_are_refused(finished):
    config = smoke()
    config.difficulty.duration = "13 steps"
    with pytest.raises(UserError, match="another duration"):
        mode.difficulty(config, str(finished.parent))


@pytest.mark.parametrize("key", ["seeds", "validations", "num_pairs", "num_draws", "max_images"])
def test_numbers_below_one(tmp_path, key):
    config = smoke()
    config.difficulty[key] = 0
    with pytest.raises(UserError, match=f"difficulty.{key} is 0"):
        mode.difficulty(config, str(tmp_path))


@pytest.mark.long  # of a study
def test_the_fitted_curriculum_becomes_a_config(finished, tmp_path):
    config = smoke()
    config.curriculum.edges_file = str(finished / "curriculum.json")
    with_fitted_edges(config)
    check_keys(config)
    fitted = json.loads((finished / "curriculum.json").read_text())
    assert list(config.curriculum.edges) == fitted["edges"] and config.curriculum.edges_file == ""
    assert config.curriculum.spacing == "custom" and config.curriculum.order == fitted["order"]
    assert config.curriculum.num_clusters == 4
    config.curriculum.edges_file = str(tmp_path / "nowhere.json")
    with pytest.raises(UserError, match="does not exist"):
        with_fitted_edges(config)
    (tmp_path / "other.json").write_text('{"edges": 3}')
    config.curriculum.edges_file = str(tmp_path / "other.json")
    with pytest.raises(UserError, match="holds no edges and order"):
        with_fitted_edges(config)
