"""Loss weights against the formulas of the papers, for every prediction."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cdt.diffusion import loss_weights, schedules
from cdt.diffusion import prediction as predictions
from cdt.diffusion.loss import make_loss
from cdt.diffusion.prediction import to_x0_eps
from cdt.diffusion.process import ddpm, edm, flow
from cdt.diffusion.uncertainty import init_uncertainty, make_log_variance

DDPM, EDM = ddpm(schedules.linear_betas(1000)), edm()
FLOW, GVP = flow(schedules.linear_path()), flow(schedules.gvp_path())
CASES = {
    "ddpm eps": (DDPM, predictions.eps_prediction()),
    "ddpm x0": (DDPM, predictions.x0_prediction()),
    "ddpm v": (DDPM, predictions.v_prediction(DDPM)),
    "edm": (EDM, predictions.edm_prediction(0.5)),
    "flow": (FLOW, predictions.velocity_prediction(FLOW)),
    "gvp": (GVP, predictions.velocity_prediction(GVP)),
}
U = jnp.linspace(0.02, 0.98, 25)


def snr(process, level):
    alpha, sigma = (np.asarray(x, np.float64) for x in process.alpha_sigma(level))
    return (alpha / sigma) ** 2


@pytest.mark.parametrize("case", CASES)
def test_one_weight_means_the_same_for_every_prediction(case):
    # Convert an output error to x0 and eps errors; the papers give the weights of these.
    process, prediction = CASES[case]
    level = process.level(U)
    error = jnp.ones((len(U), 1))
    x0_error, eps_error = to_x0_eps(process, prediction, error, jnp.zeros_like(error), level)
    s = snr(process, level)
    np.testing.assert_allclose(
        loss_weights.min_snr_weight(process, prediction, 5.0)(level),
        np.minimum(s, 5) * np.float64(x0_error[:, 0]) ** 2, rtol=2e-3,
    )  # fmt: skip
    np.testing.assert_allclose(
        loss_weights.p2_weight(process, prediction, 1.0, 0.5)(level),
        np.float64(eps_error[:, 0]) ** 2 / (1 + s) ** 0.5, rtol=2e-3,
    )  # fmt: skip
    np.testing.assert_allclose(
        loss_weights.x0_error_weight(process, prediction)(level) * np.float64(x0_error[:, 0]) ** 2,
        1.0, rtol=2e-3,
    )  # fmt: skip


def test_min_snr_is_the_formula_of_hang_et_al():
    level, gamma = DDPM.level(U), 5.0
    s = snr(DDPM, level)
    for name, expected in {
        "eps": np.minimum(s, gamma) / s,
        "v": np.minimum(s, gamma) / (s + 1),
        "x0": np.minimum(s, gamma),
    }.items():
        weight = loss_weights.min_snr_weight(*CASES[f"ddpm {name}"], gamma)(level)
        np.testing.assert_allclose(weight, expected, rtol=2e-4)


@pytest.mark.parametrize("case", ["flow", "gvp"])
@pytest.mark.parametrize("kind", [loss_weights.min_snr_weight, loss_weights.p2_weight])
def test_weights_are_finite_at_the_clean_end(case, kind):
    weight = kind(*CASES[case])(jnp.array([0.0, 1e-30, 1 - 2.0**-24], jnp.float32))
    assert np.all(np.isfinite(weight)) and np.all(np.asarray(weight) >= 0)


def test_min_snr_is_one_without_signal():
    class Blind:  # alpha = 0
        alpha_sigma = staticmethod(lambda level: (jnp.zeros_like(level), jnp.ones_like(level)))

    assert loss_weights.min_snr_weight(Blind, predictions.eps_prediction())(
        jnp.ones(3)
    ).tolist() == [1, 1, 1]


def test_bad_constants():
    with pytest.raises(ValueError, match="positive"):
        loss_weights.min_snr_weight(DDPM, predictions.eps_prediction(), 0.0)
    with pytest.raises(ValueError, match="positive"):
        loss_weights.p2_weight(DDPM, predictions.eps_prediction(), k=0.0)


def test_the_weight_does_not_apply_to_the_variational_term():
    rng = np.random.default_rng(0)
    output, x0, eps = (jnp.asarray(rng.normal(size=(4, 2, 2, c)), jnp.float32) for c in (2, 1, 1))
    level = jnp.array([0.0, 10.0, 500.0, 999.0])
    plain, _ = make_loss(DDPM, predictions.eps_prediction())(output[..., :1], x0, eps, level)
    both, _ = make_loss(DDPM, predictions.eps_prediction(), True)(output, x0, eps, level)
    tripled, _ = make_loss(
        DDPM, predictions.eps_prediction(), True, lambda u: 3 * jnp.ones_like(u)
    )(output, x0, eps, level)
    np.testing.assert_allclose(tripled, 3 * plain + (both - plain), rtol=1e-5)


@pytest.mark.parametrize("process", [DDPM, EDM, FLOW], ids=lambda p: p.name)
def test_learned_uncertainty_finds_the_loss_of_each_level(process):
    # m exp(-a) + a is minimal at a = ln m; gradient descent must reach it for a smooth m.
    level = process.level(jnp.linspace(0.1, 0.9, 64))
    mse = 0.3 + 2 * jnp.linspace(0.1, 0.9, 64) ** 2
    log_variance = make_log_variance(process)

    def objective(params):
        a = log_variance(params, level)
        return jnp.mean(mse * jnp.exp(-a) + a)

    params = init_uncertainty()
    np.testing.assert_array_equal(log_variance(params, level), 0.0)
    np.testing.assert_allclose(objective(params), mse.mean(), rtol=1e-6)
    step = jax.jit(lambda p: jax.tree.map(lambda x, g: x - 0.5 * g, p, jax.grad(objective)(p)))
    for _ in range(2000):
        params = step(params)
    np.testing.assert_allclose(log_variance(params, level), np.log(mse), atol=0.15)
    ends = process.level(jnp.array([0.0, 1 - 2.0**-24], jnp.float32))
    assert np.all(np.isfinite(log_variance(params, ends)))
