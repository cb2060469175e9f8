"""Each density over u against its formula: distribution function, draws, weights and updates."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from cdt.curriculum.clusters import edge_table, uniform_edges
from cdt.curriculum.pacing import fixed
from cdt.curriculum.sampler import curriculum
from cdt.diffusion import prediction, schedules
from cdt.diffusion.loss_weights import x0_error_weight
from cdt.diffusion.process import ddpm, edm, flow
from cdt.timesteps.base import Draw, Feedback
from cdt.timesteps.independent import independent
from cdt.timesteps.info_noise import info_noise, log_s_bins
from cdt.timesteps.logit_normal import logit_normal
from cdt.timesteps.second_moment import second_moment
from cdt.timesteps.uniform import uniform

FLOW = flow(schedules.linear_path())
SECOND_MOMENT_BINS, INFO_NOISE_BINS = 20, 40
KNOTS, LOG_S = log_s_bins(FLOW.log_snr, INFO_NOISE_BINS)
X0_WEIGHT = (1 + np.exp(-LOG_S)) ** 2  # linear flow: |v error|^2 = |x0 error|^2 / u^2


def loss_of(u):
    """Return a loss that differs by bin."""
    return 0.2 + np.asarray(u) ** 2


def eps_error_of(u):
    """Return mmse / s^2, the eps error of the optimal denoiser of 10-dimensional normal data."""
    s = np.asarray(u, np.float64) / (1 - np.asarray(u, np.float64))
    return 10.0 / (1.0 + s**2)


def updated_state(density, levels=None, rounds=30):
    """Return the state of the density after `rounds` batches of losses (over all u by default)."""
    state, rng = density.init(), np.random.default_rng(1)
    update = jax.jit(density.update)
    for _ in range(rounds):
        u = rng.random(2000) if levels is None else levels(rng)
        u = jnp.asarray(u, jnp.float32)
        feedback = Feedback(jnp.asarray(loss_of(u)), jnp.asarray(eps_error_of(u), jnp.float32))
        state = update(state, Draw(u, jnp.ones_like(u)), feedback)
    return state


DENSITIES = {
    "uniform": uniform(),
    "logit_normal": logit_normal(-0.3, 1.2),
    "second_moment": second_moment(SECOND_MOMENT_BINS),
    "info_noise": info_noise(KNOTS, LOG_S, X0_WEIGHT, update_every=10),
}
STATES = {name: updated_state(density) for name, density in DENSITIES.items()}


@pytest.mark.parametrize("name", DENSITIES)
def test_distribution_function_and_quantile(name):
    density, state = DENSITIES[name], STATES[name]
    u = jnp.linspace(0.0, 1.0, 1001)
    cdf = np.asarray(density.cdf(state, u))
    assert cdf[0] == 0.0 and cdf[-1] == 1.0
    assert np.all(np.diff(cdf) >= 0)
    inner = (cdf > 0.001) & (cdf < 0.999)
    back = np.asarray(density.icdf(state, jnp.asarray(cdf)))
    np.testing.assert_allclose(back[inner], np.asarray(u)[inner], atol=1e-4)
    extremes = np.asarray(density.icdf(state, jnp.array([0.0, 1 - 2.0**-24], jnp.float32)))
    assert np.all((extremes >= 0) & (extremes < 1))


@pytest.mark.parametrize("name", DENSITIES)
def test_draws_follow_the_distribution_function(name):
    density, state = DENSITIES[name], STATES[name]
    draw = independent(density).sample(state, jax.random.key(0), 20_000)
    q = np.asarray(density.cdf(state, draw.u), np.float64)
    assert stats.kstest(q, "uniform").pvalue > 1e-4


@pytest.mark.parametrize("stage", [2, 4, 5])
@pytest.mark.parametrize("name", DENSITIES)
def test_weighted_draws_stand_for_the_objective_at_every_stage(name, stage):
    # The integral of a test function under the restricted and renormalised objective.
    density, n = DENSITIES[name], 5
    sampler = curriculum(density, edge_table(uniform_edges(n), None), fixed(1, n))
    state = sampler.init()
    state = state._replace(
        density=STATES[name], pacing=state.pacing._replace(stage=jnp.int32(stage))
    )
    draw = sampler.sample(state, jax.random.key(3), 200_000)
    values = np.asarray(draw.weight * jnp.cos(3 * draw.u), np.float64)
    grid = np.linspace(1 - stage / n, 1, 200_001)
    objective = np.asarray(density.objective_cdf(STATES[name], jnp.asarray(grid)), np.float64)
    mass = np.diff(objective) / (objective[-1] - objective[0])
    expected = np.sum(mass * np.cos(3 * (grid[1:] + grid[:-1]) / 2))
    assert abs(values.mean() - expected) < 4 * values.std() / np.sqrt(len(values)) + 1e-4


def test_logit_normal_is_the_logit_of_a_normal():
    u = independent(logit_normal(0.5, 2.0)).sample((), jax.random.key(2), 20_000).u
    logit = np.log(np.float64(u)) - np.log1p(-np.float64(u))
    assert stats.kstest(logit, stats.norm(0.5, 2.0).cdf).pvalue > 1e-3
    with pytest.raises(ValueError, match="positive"):
        logit_normal(0.0, 0.0)


def test_second_moment_is_the_root_of_the_mean_square():
    k = SECOND_MOMENT_BINS
    density, state = DENSITIES["second_moment"], STATES["second_moment"]
    middles = (np.arange(k) + 0.5) / k
    # E[L^2] within a bin, by the midpoint rule on 100 pieces.
    fine = (np.arange(100 * k) + 0.5) / (100 * k)
    root = np.sqrt((loss_of(fine) ** 2).reshape(k, 100).mean(axis=1))
    p = 0.999 * root / root.sum() + 0.001 / k
    knots = np.linspace(0, 1, k + 1)
    mass = np.diff(np.asarray(density.cdf(state, jnp.asarray(knots, jnp.float32)), np.float64))
    np.testing.assert_allclose(mass, p, rtol=0.05)  # an average over about ten losses
    np.testing.assert_allclose(
        density.weight(state, jnp.asarray(middles, jnp.float32)), 1 / (k * mass), rtol=1e-4
    )


def test_second_moment_is_uniform_until_the_drawn_bins_are_warm():
    density = second_moment(10)
    u = jnp.array([0.75, 0.95], jnp.float32)  # the other bins are closed
    state = density.init()
    for i in range(10):
        np.testing.assert_array_equal(density.weight(state, u), [1, 1])
        feedback = Feedback(jnp.array([1.0, 3.0]), jnp.ones(2))
        state = density.update(state, Draw(u, jnp.ones(2)), feedback)
        assert i == 9 or not np.any(np.asarray(density.weight(state, u)) != 1)
    weight = np.asarray(density.weight(state, u))
    np.testing.assert_allclose(weight[0] / weight[1], 3, rtol=0.01)


def test_info_noise_follows_the_entropy_profile():
    # The formula of the paper's appendix in float64, for the exact profile.
    s, fall = np.exp(LOG_S), 10.0 / (1.0 + np.exp(LOG_S) ** 2)  # mmse(s) = 10 s^2 / (1 + s^2)
    mmse = fall * s**2
    c = max(x for x, m in zip(s, mmse, strict=True) if m / x**3 >= 0.002 * np.max(mmse / s**3))
    rho = mmse / s**2 * s**3 / (s**3 + c**3)
    pi = rho / X0_WEIGHT
    pi = 0.999 * pi / pi.sum() + 0.001 * np.diff(KNOTS)
    density, state = DENSITIES["info_noise"], STATES["info_noise"]
    mass = np.diff(np.asarray(density.cdf(state, jnp.asarray(KNOTS)), np.float64))
    inner = slice(1, -1)  # in the outermost bins the mean error is not that of the middle
    np.testing.assert_allclose(mass[inner], pi[inner], rtol=0.08, atol=1e-4)


def test_info_noise_learns_soon_although_its_bins_are_narrow():
    """Near u = 0 a bin gets one draw in thousands. If only noisy levels were open, the profile is
    extrapolated from them, so levels that open later are drawn too."""
    density, key = DENSITIES["info_noise"], jax.random.key(3)
    for low in (0.0, 0.8):
        state = density.init()
        for i in range(20):
            u = low + (1 - low) * jax.random.uniform(jax.random.fold_in(key, i), (64,))
            feedback = Feedback(jnp.ones(64), jnp.asarray(eps_error_of(u), jnp.float32))
            state = density.update(state, Draw(u, jnp.ones(64)), feedback)
        assert np.any(np.asarray(state.mass) != np.diff(KNOTS))
        opened = density.cdf(state, jnp.float32(0.8)) - density.cdf(state, jnp.float32(0.5))
        assert opened > 0.05


def test_info_noise_updates_its_probabilities_every_update_every_steps():
    density = info_noise(KNOTS, LOG_S, X0_WEIGHT, warmup=1, update_every=5)
    state, u = density.init(), jnp.linspace(0.0, 0.999, 500)
    feedback = Feedback(jnp.ones(500), jnp.asarray(eps_error_of(u), jnp.float32))
    changed = []
    for _ in range(10):
        new = density.update(state, Draw(u, jnp.ones(500)), feedback)
        changed.append(bool(np.any(np.asarray(new.mass != state.mass))))
        state = new
    assert changed == [False] * 4 + [True] + [False] * 5  # the second update has the same errors
    with pytest.raises(ValueError, match="must be equal"):
        info_noise(KNOTS, LOG_S[1:], X0_WEIGHT)


@pytest.mark.parametrize(
    "process", [FLOW, edm(), ddpm(schedules.linear_betas(1000))], ids=lambda p: p.name
)
def test_bins_have_equal_width_in_ln_s(process):
    knots, log_s = log_s_bins(process.log_snr, 32)
    assert knots[0] == 0 and knots[-1] == 1
    np.testing.assert_allclose(np.diff(log_s), np.diff(log_s)[0], rtol=1e-6)
    inner = -0.5 * process.log_snr(knots[1:-1].astype(np.float64))
    # At the clean end of the discrete family ln s changes by up to 0.1 per timestep.
    half = (log_s[1] - log_s[0]) / 2
    np.testing.assert_allclose(inner, log_s[:-1] + half, atol=0.1 if process.num_levels else 1e-3)


def test_x0_weight_of_the_families_in_closed_form():
    u = jnp.linspace(0.05, 0.95, 7)
    np.testing.assert_allclose(
        x0_error_weight(FLOW, prediction.velocity_prediction(FLOW))(u),
        1 / np.asarray(u) ** 2,
        rtol=1e-5,
    )
    sigma, sd = np.exp(np.linspace(-3, 3, 7)), 0.5
    np.testing.assert_allclose(
        x0_error_weight(edm(), prediction.edm_prediction(sd))(jnp.asarray(sigma, jnp.float32)),
        (sigma**2 + sd**2) / (sigma * sd) ** 2,
        rtol=1e-5,
    )
