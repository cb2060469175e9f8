import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import logsumexp

from cdt.difficulty.relative_entropy import (
    LevelPairs,
    isotropic_gaussians,
    level_pairs,
    log_ratios,
    relative_entropy,
)
from cdt.diffusion import process as processes
from cdt.diffusion import schedules

FAMILIES = {
    "ddpm": processes.ddpm(schedules.linear_betas(1000)),
    "cosine": processes.ddpm(schedules.cosine_betas(1000)),
    "edm": processes.edm(),
    "flow": processes.flow(schedules.linear_path()),
    "gvp": processes.flow(schedules.gvp_path()),
}


def gaussian_kl(variance_p, variance_q):
    """D_KL of centred Gaussians with diagonal covariances [..., d], in nats per dimension."""
    ratio = variance_p / variance_q
    return 0.5 * (ratio - 1 - np.log(ratio)).mean(axis=-1)


def select(pairs, chosen):
    return pairs._replace(u=pairs.u[chosen], alpha=pairs.alpha[chosen], sigma=pairs.sigma[chosen])


@pytest.mark.parametrize("name", FAMILIES)
def test_levels_are_the_family_s_own_at_a_fixed_distance_and_start_above_the_clean_end(name):
    process = FAMILIES[name]
    pairs = level_pairs(process, 37)
    assert pairs.alpha.shape == pairs.sigma.shape == (len(pairs.u), 2)
    assert np.all(pairs.sigma > 0) and np.all(np.diff(pairs.sigma / pairs.alpha, axis=1) > 0)
    assert np.all(np.diff(pairs.u) > 0) and 0 < pairs.u[0] and pairs.u[-1] < 1
    u = pairs.u[:, None] + pairs.step * np.array([-0.5, 0.5])
    alpha, sigma = process.alpha_sigma(process.level(jnp.asarray(u, jnp.float32)))
    np.testing.assert_allclose(alpha, pairs.alpha, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(sigma, pairs.sigma, rtol=1e-4)
    np.testing.assert_allclose(
        2 * np.log(pairs.alpha / pairs.sigma), process.log_snr(u), rtol=1e-9, atol=1e-9
    )


def test_ddpm_pairs_are_consecutive_timesteps():
    every = level_pairs(FAMILIES["ddpm"], 5000)
    np.testing.assert_allclose(every.u * 1000, np.arange(1, 1000))
    np.testing.assert_array_equal(every.sigma[1:, 0], every.sigma[:-1, 1])
    beta = 1 - (every.alpha[:, 1] / every.alpha[:, 0]) ** 2
    np.testing.assert_allclose(beta, schedules.linear_betas(1000)[1:], rtol=1e-9)
    some = level_pairs(FAMILIES["ddpm"], 11)
    assert some.step == every.step and some.u[0] == every.u[0] and some.u[-1] == every.u[-1]
    assert len(some.u) == 11


def test_blocked_log_ratios_equal_the_definition():
    """Against sums of densities over the whole data set, as in the definition."""
    rng = np.random.default_rng(0)
    data = rng.uniform(-1, 1, (50, 12))
    data[7] = data[3]  # a duplicate is a neighbour at distance 0
    index, noise = rng.integers(50, size=9), rng.standard_normal((9, 12))
    index[0] = 3
    for name, process in FAMILIES.items():
        pairs = level_pairs(process, 13)
        found = log_ratios(data, index, noise, pairs, block=16, workers=2)
        expected = np.empty((len(pairs.u), 9))
        for p, (alpha, sigma) in enumerate(zip(pairs.alpha, pairs.sigma, strict=True)):
            x = alpha[0] * data[index] + sigma[0] * noise
            log_p = [
                logsumexp(-((x[:, None] - a * data) ** 2).sum(-1) / (2 * s**2), axis=1)
                - 12 * np.log(s)
                for a, s in zip(alpha, sigma, strict=True)
            ]
            expected[p] = log_p[0] - log_p[1]
        np.testing.assert_allclose(found.log_ratio, expected, rtol=1e-7, atol=1e-9, err_msg=name)
        distances = np.linalg.norm(data[index][:, None] - data, axis=-1)
        distances[np.arange(9), index] = np.inf
        np.testing.assert_allclose(found.nearest, distances.min(axis=1), atol=1e-7)
        np.testing.assert_allclose(found.mean_square, (data**2).sum(axis=1).mean())


def test_rounding_is_far_below_the_standard_error():
    """In 3072 dimensions the log densities are thousands of nats: against differences in 80-bit
    long double. Some of the data are like images, with a mean far from zero."""
    if np.finfo(np.longdouble).eps > 1e-18:
        pytest.skip("needs a long double that is longer than a double")
    rng = np.random.default_rng(0)
    data = (0.5 + 0.2 * rng.standard_normal((30, 3072))).astype(np.float32)
    index, noise = rng.integers(30, size=20), rng.standard_normal((20, 3072))
    for name in ("ddpm", "edm", "flow"):
        pairs = select(level_pairs(FAMILIES[name], 1000), [0, 100, 500, 900, -1])
        found = log_ratios(data, index, noise, pairs, block=7)
        error = relative_entropy(data, pairs, num_draws=100).standard_error * 3072
        wide = data.astype(np.longdouble)
        for p in range(len(pairs.u)):
            alpha, sigma = pairs.alpha[p].astype(wide.dtype), pairs.sigma[p].astype(wide.dtype)
            x = alpha[0] * wide[index] + sigma[0] * noise
            log_p = []
            for a, s in zip(alpha, sigma, strict=True):
                exponent = -((x[:, None] - a * wide) ** 2).sum(-1) / (2 * s**2)
                peak = exponent.max(axis=1)
                log_p.append(
                    peak + np.log(np.exp(exponent - peak[:, None]).sum(1)) - 3072 * np.log(s)
                )
            deviation = np.abs(found.log_ratio[p] - (log_p[0] - log_p[1])).max()
            # For single points the estimate is exact and its error is rounding.
            exact = 1e-9 * np.abs(found.log_ratio[p]).max()
            assert deviation < max(1e-3 * error[p], exact), (name, p)


@pytest.mark.parametrize("name", FAMILIES)
def test_a_single_point_is_two_isotropic_gaussians(name):
    point = np.random.default_rng(0).uniform(-1, 1, (1, 4, 4, 1))
    pairs = level_pairs(FAMILIES[name], 40)
    result = relative_entropy(point, pairs, num_draws=50)
    shift, variance = np.diff(pairs.alpha, axis=1)[:, 0], pairs.sigma**2
    expected = gaussian_kl(variance[:, :1], variance[:, 1:]) + (
        0.5 * shift**2 * (point**2).mean() / variance[:, 1]
    )
    np.testing.assert_allclose(result.nats_per_dim, expected, rtol=1e-6, atol=1e-14)
    np.testing.assert_allclose(result.one_point, expected, rtol=1e-6, atol=1e-14)
    assert result.single_point.all() and result.nearest == np.inf


# The long ones differ from the others only in their schedule.
@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=[pytest.mark.long] * (n in ("cosine", "gvp"))) for n in FAMILIES]
)
def test_gaussian_data_have_the_closed_form(name):
    """N(0, S) with unequal variances in 2-D; 20,000 examples stand for the whole distribution."""
    variance = np.array([0.25, 1.5])
    data = np.random.default_rng(1).standard_normal((20_000, 2))
    # Exactly the intended mean and covariance: at high noise deviations would be visible.
    data -= data.mean(axis=0)
    data = data @ np.linalg.inv(np.linalg.cholesky(np.cov(data.T, ddof=0))).T * np.sqrt(variance)
    pairs = level_pairs(FAMILIES[name], 40)
    pairs = select(pairs, pairs.u > 0.4)  # below, single examples are visible
    pairs = select(pairs, slice(None, None, 6))
    result = relative_entropy(data, pairs, num_draws=2000)
    at = pairs.alpha[..., None] ** 2 * variance + pairs.sigma[..., None] ** 2
    expected = gaussian_kl(at[:, 0], at[:, 1])
    deviation = (result.nats_per_dim - expected) / result.standard_error
    assert np.abs(deviation).max() < 4
    assert np.all(result.standard_error < 0.2 * expected)
    assert np.all(result.nats_per_dim <= result.one_point)
    assert not result.single_point.any()


def test_unit_variance_gaussian_data_have_none_where_variance_is_preserved():
    data = np.random.default_rng(2).standard_normal((20_000, 1))
    data = (data - data.mean()) / data.std()
    pairs = select(level_pairs(FAMILIES["gvp"], 40), slice(12, None, 4))
    result = relative_entropy(data, pairs, num_draws=400)
    assert np.all(result.nats_per_dim < 1e-3 * result.one_point)


def test_two_points_in_one_dimension_agree_with_quadrature():
    points, x = np.array([[-1.0], [0.6]]), np.linspace(-25, 25, 200_001)
    for name in ("edm", "flow", "ddpm"):
        pairs = select(level_pairs(FAMILIES[name], 15), slice(None, None, 2))
        result = relative_entropy(points, pairs, num_draws=30_000)
        for p in range(len(pairs.u)):
            log_p = [
                logsumexp(-((x - a * points) ** 2) / (2 * s**2), axis=0)
                - np.log(2 * s * np.sqrt(2 * np.pi))
                for a, s in zip(pairs.alpha[p], pairs.sigma[p], strict=True)
            ]
            expected = np.trapezoid(np.exp(log_p[0]) * (log_p[0] - log_p[1]), x)
            deviation = abs(result.nats_per_dim[p] - expected)
            # At low noise the two points hardly overlap. Their effect is in draws rarer than one in
            # 30,000, which the standard error does not see.
            assert deviation < 4 * result.standard_error[p] + 1e-5 * expected, (name, p)


def test_standard_errors_are_honest():
    """The spread of repeated estimates equals their standard error."""
    data = np.random.default_rng(3).standard_normal((60, 3)) * [0.3, 1.0, 0.6]
    pairs = select(level_pairs(FAMILIES["flow"], 30), slice(None, None, 6))
    runs = [relative_entropy(data, pairs, num_draws=200, seed=s) for s in range(60)]
    values = np.array([run.nats_per_dim for run in runs])
    errors = np.array([run.standard_error for run in runs])
    ratio = values.std(axis=0, ddof=1) / errors.mean(axis=0)
    assert np.all((ratio > 0.7) & (ratio < 1.4))


def test_the_single_point_region_is_marked_where_the_value_says_nothing_about_the_data():
    rng = np.random.default_rng(4)
    data = rng.uniform(-1, 1, (200, 30))
    result = relative_entropy(data, level_pairs(FAMILIES["flow"], 60), num_draws=200)
    marked = result.single_point
    assert marked.any() and not marked.all()
    assert np.all(np.diff(marked.astype(int)) <= 0)  # one region, at the clean end
    np.testing.assert_allclose(result.nats_per_dim[marked], result.one_point[marked], rtol=1e-2)
    assert result.nats_per_dim[-1] < 0.9 * result.one_point[-1]


def test_result_depends_on_the_seed_alone():
    data = np.random.default_rng(6).uniform(-1, 1, (100, 5, 2)).astype(np.float32)
    pairs = level_pairs(FAMILIES["edm"], 6)
    once = relative_entropy(data, pairs, num_draws=40, block=32, workers=1)
    again = relative_entropy(data, pairs, num_draws=40, block=100, workers=2)
    np.testing.assert_allclose(once.nats_per_dim, again.nats_per_dim, rtol=1e-9)
    other = relative_entropy(data, pairs, num_draws=40, seed=1)
    assert not np.allclose(once.nats_per_dim, other.nats_per_dim, rtol=1e-6)
    assert once.examples == 100 and once.dimensions == 10 and once.draws == 40


def test_isotropic_gaussians_keep_their_precision_between_close_levels():
    ratio = 1 + 1e-9
    pairs = LevelPairs(np.array([0.5]), 1e-9, np.array([[1.0, 1.0]]), np.array([[1.0, ratio]]))
    np.testing.assert_allclose(isotropic_gaussians(pairs, 1.0), (ratio - 1) ** 2, rtol=1e-6)


def test_what_cannot_be_measured_is_refused():
    pairs = level_pairs(FAMILIES["flow"], 3)
    with pytest.raises(ValueError, match="at least 20"):
        relative_entropy(np.zeros((5, 2)), pairs, num_draws=19)
    with pytest.raises(ValueError, match="empty"):
        relative_entropy(np.zeros((0, 2)), pairs)
    with pytest.raises(ValueError, match="at least 1"):
        level_pairs(FAMILIES["flow"], 0)
    with pytest.raises(ValueError, match="single timestep"):
        level_pairs(processes.ddpm(np.array([0.1])), 3)
