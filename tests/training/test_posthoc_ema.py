"""Post-hoc EMA: widths and profiles, and reconstructed EMAs against tracked ones."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cdt import from_config
from cdt.errors import UserError
from cdt.modes.evaluate import evaluate
from cdt.modes.train import train
from cdt.monitoring.writers import read_history
from cdt.run.open_run import open_run
from cdt.run.weights import combined_emas, load_params
from cdt.training import optim
from cdt.training.posthoc_ema import coefficients, gamma
from cdt.workdir.checkpoint import Checkpointer
from smoke_runs import arrays, smoke

TRACKS = (0.05, 0.10)


def profile(std, step, points):
    """Return p(tau) at the points, which can lie beyond the step."""
    g = gamma(std)
    return np.where(points <= step, (g + 1) * points**g / step ** (g + 1), 0.0)


@pytest.mark.parametrize("std", [0.01, 0.05, 0.1, 0.2, 0.28])
def test_gamma_has_the_width(std):
    tau = (np.arange(400_000) + 0.5) / 400_000
    p = profile(std, 1.0, tau)
    mean = (p * tau).mean()
    assert p.mean() == pytest.approx(1.0, abs=1e-6)
    assert np.sqrt((p * (tau - mean) ** 2).mean()) == pytest.approx(std, rel=1e-4)


def test_the_exponents_of_the_paper():
    assert gamma(0.05) == pytest.approx(16.97, abs=0.005)
    assert gamma(0.10) == pytest.approx(6.94, abs=0.005)
    for std in (0.0, -0.1, 0.29, np.nan):
        with pytest.raises(ValueError, match="must lie between 0 and 0.288"):
            gamma(std)


def test_the_ema_has_the_power_function_profile():
    """Against the sum of the parameters, weighted with the integral of the profile."""
    averages = optim.ema({"a": optim.power_function(0.1)})
    state = averages.init({"w": jnp.float32(5.0)})
    for step in range(40):
        state = averages.update(state, {"w": jnp.float32((step + 1) ** 2)}, jnp.int32(step))
    edges = (np.arange(41) / 40) ** (gamma(0.1) + 1)  # cumulative profile
    expected = np.sum(np.diff(edges) * np.arange(1, 41) ** 2)
    np.testing.assert_allclose(state["a"]["w"], expected, rtol=1e-5)


def test_a_stored_ema_is_reconstructed_exactly():
    stored = [(step, std) for step in (100, 200, 300) for std in TRACKS]
    found = coefficients(stored, 0.1, 200)
    np.testing.assert_allclose(found, [0, 0, 0, 1, 0, 0], atol=1e-8)


@pytest.mark.parametrize(("std", "largest"), [(0.03, 0.2), (0.07, 0.03), (0.15, 0.1), (0.2, 0.2)])
def test_the_profile_is_the_least_squares_approximation(std, largest):
    """Against least squares with densely sampled profiles."""
    stored = [(step, width) for step in range(125, 1001, 125) for width in TRACKS]
    tau = np.arange(0.05, 1000.0, 0.1)
    basis = np.stack([profile(width, step, tau) for step, width in stored], axis=1)
    expected = profile(std, 1000, tau)
    nearest, *_ = np.linalg.lstsq(basis, expected, rcond=None)
    found = coefficients(stored, std)
    assert found.sum() == pytest.approx(1.0)
    np.testing.assert_allclose(found, nearest / nearest.sum(), atol=2e-3 * abs(nearest).max())
    error = np.linalg.norm(basis @ found - expected)
    assert error / np.linalg.norm(expected) < largest


def run_config(**overrides):
    """Return the config of a run with EMAs of three widths that keeps every second step."""
    return smoke(
        **{"ema.decays": (), "ema.power_stds": (*TRACKS, 0.07), "checkpoint.every": "2 steps",
           "checkpoint.keep": 1, "checkpoint.keep_every": "2 steps", "optim.lr": 1e-3,
           "optim.warmup": "0 steps"} | overrides
    )  # fmt: skip


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    assert train(run_config(), str(folder)) == 0
    return folder


@pytest.mark.slow
def test_an_ema_is_reconstructed_from_the_kept_checkpoints(workdir):
    """The EMA of width 0.07, from the two others only."""
    config = run_config()
    checkpoints = Checkpointer(workdir / "checkpoints", keep=1)
    assert checkpoints.steps() == list(range(24, 0, -2))
    saved = arrays(workdir)
    averages = jax.tree.map(jnp.asarray, saved["ema"])
    found = combined_emas(checkpoints, averages, TRACKS, 0.07, 24)
    with pytest.raises(UserError, match="of step 0, where nothing has been averaged; give 'raw'"):
        combined_emas(checkpoints, averages, TRACKS, 0.07, 0)

    def distance(a, b):
        squares = jax.tree.map(lambda x, y: jnp.sum((x - y) ** 2), a, b)
        return float(jnp.sqrt(sum(jax.tree.leaves(squares))))

    expected = saved["ema"]["power0.07"]
    nearest = min(distance(saved["ema"][f"power{std:g}"], expected) for std in TRACKS)
    assert distance(found, expected) < 0.03 * nearest
    # As the modes do it, with all three.
    config.sample.ema = "posthoc0.07"
    _, params = load_params(open_run(config, workdir))
    assert distance(params, expected) < 1e-4


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sample.ema": "posthoc0.5"}, "is 'posthoc0.5'; after 'posthoc' it must have"),
        ({"sample.ema": "posthoc"}, "such as 'posthoc0.1'"),
        ({"sample.ema": "posthoc0.1", "ema.power_stds": ()}, "ema.power_stds is empty"),
    ],
)
def test_wrong_names_of_emas(changes, message):
    with pytest.raises(UserError, match=message):
        from_config.ema_name(run_config(**changes))
    with pytest.raises(UserError, match=message.replace("sample.ema", "evaluate.emas")):
        from_config.evaluated_emas(
            run_config(**changes | {"evaluate.emas": (changes["sample.ema"],)})
        )


@pytest.mark.slow
def test_a_run_evaluates_posthoc_emas_while_it_trains(tmp_path):
    """At the end the values equal those of --mode=evaluate."""
    config = run_config(
        **{"evaluate.every": "6 steps", "evaluate.emas": ("posthoc0.07", "posthoc0.15", "raw"),
           "evaluate.num": 8, "sample.ema": "posthoc0.15", "checkpoint.keep_every": "4 steps"}
    )  # fmt: skip
    assert train(config, str(tmp_path)) == 0
    key = "evaluation_pixels/frechet/ema_"
    evaluated = [r for r in read_history(tmp_path) if f"{key}posthoc0.15" in r]
    assert [record["step"] for record in evaluated] == [6, 12, 18, 24]
    assert evaluate(config, str(tmp_path)) == 0
    (file,) = (tmp_path / "evaluations").glob("*.json")
    found = json.loads(file.read_text())
    assert found["ema"] == "posthoc0.15"
    assert evaluated[-1][f"{key}posthoc0.15"] == pytest.approx(found["frechet_train"], rel=1e-6)
    assert evaluated[-1][f"{key}posthoc0.07"] != evaluated[-1][f"{key}posthoc0.15"]


def test_a_step_that_is_not_saved_is_not_kept(tmp_path):
    with pytest.raises(UserError, match="keep_every is 3 steps; .*checkpoint.every, 2 steps"):
        train(run_config(**{"checkpoint.keep_every": "3 steps"}), str(tmp_path))
