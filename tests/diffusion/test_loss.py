"""Losses against the formulas of the papers, in float64 NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import norm

from cdt.diffusion import prediction, process, schedules
from cdt.diffusion.loss import discretized_gaussian_nll, make_loss

T = np.array([0, 0, 1, 2, 40, 500, 998, 999])
SHAPE = (len(T), 4, 4, 2)
BETAS = schedules.linear_betas(1000)


def reference_vb(x0, x, x0_hat, v, t):
    """Return L_t in bits/dim (Ho et al. 2020, equations 5-7, 13; Nichol & Dhariwal 2021, 15)."""
    alpha_bar = np.cumprod(1 - BETAS)
    previous = np.append(1.0, alpha_bar[:-1])
    beta_tilde = (1 - previous) / (1 - alpha_bar) * BETAS
    log_beta_tilde = np.log(np.append(beta_tilde[1], beta_tilde[1:]))
    out = np.zeros(len(t))
    for i, s in enumerate(t):
        log_var = (v[i] + 1) / 2 * np.log(BETAS[s]) + (1 - v[i]) / 2 * log_beta_tilde[s]
        c0 = np.sqrt(previous[s]) * BETAS[s] / (1 - alpha_bar[s])
        ct = np.sqrt(1 - BETAS[s]) * (1 - previous[s]) / (1 - alpha_bar[s])
        mean, true_mean = c0 * x0_hat[i] + ct * x[i], c0 * x0[i] + ct * x[i]
        if s == 0:
            std = np.exp(log_var / 2)
            upper = np.where(x0[i] > 0.999, np.inf, x0[i] + 1 / 255)
            lower = np.where(x0[i] < -0.999, -np.inf, x0[i] - 1 / 255)
            # The probability from the tail in which it is precise.
            left = norm.cdf(upper, mean, std) - norm.cdf(lower, mean, std)
            right = norm.sf(lower, mean, std) - norm.sf(upper, mean, std)
            mass = np.where(x0[i] > mean, right, left)
            nats = -np.log(np.maximum(mass, 1e-12))
        else:
            var, true_var = np.exp(log_var), np.exp(log_beta_tilde[s])
            kl = np.log(var / true_var) + (true_var + (true_mean - mean) ** 2) / var - 1
            nats = kl / 2
        out[i] = nats.mean() / np.log(2)
    return out


@pytest.fixture
def batch():
    rng = np.random.default_rng(0)
    x0 = np.round((rng.uniform(-1, 1, SHAPE) + 1) * 127.5) / 127.5 - 1  # 256 values
    x0[:2, 0] = 1.0
    x0[:2, 1] = -1.0
    eps = rng.normal(size=SHAPE)
    v = rng.uniform(-1.2, 1.2, SHAPE)
    alpha_bar = np.cumprod(1 - BETAS)[T].reshape(-1, 1, 1, 1)
    return x0, eps, v, np.sqrt(alpha_bar), np.sqrt(1 - alpha_bar)


@pytest.mark.parametrize("name", ["eps", "x0", "v"])
def test_learned_variance_loss(batch, name):
    x0, eps, v, alpha, sigma = batch
    p = process.ddpm(BETAS)
    kind = {
        "eps": prediction.eps_prediction(),
        "x0": prediction.x0_prediction(),
        "v": prediction.v_prediction(p),
    }[name]
    error = np.random.default_rng(1).normal(size=SHAPE)
    # A wrong output. At t = 0 one error is small; the other is so large that the bound 1e-12 holds.
    error *= np.array([0.3, 10, 0.3, 0.3, 0.3, 0.3, 0.3, 0.3]).reshape(-1, 1, 1, 1)
    x = alpha * x0 + sigma * eps
    if name == "eps":
        error[2] *= 3
        output, x0_hat = eps + error, (x - sigma * (eps + error)) / alpha
    elif name == "x0":
        error *= sigma
        output = x0_hat = x0 + error
    else:
        output = alpha * eps - sigma * x0 + error
        x0_hat = alpha * x - sigma * output

    def loss(out):
        return make_loss(p, kind, learn_variance=True)(
            out, jnp.float32(x0), jnp.float32(eps), jnp.float32(T)
        )

    loss = jax.jit(loss)
    raw = jnp.float32(np.concatenate([output, v], -1))
    value, _ = loss(raw)
    vb = reference_vb(x0, x, x0_hat, v, T)
    np.testing.assert_allclose(value, (error**2).mean((1, 2, 3)) + vb, rtol=1e-3)
    np.testing.assert_allclose(value - (error**2).mean((1, 2, 3)), vb, rtol=2e-3, atol=1e-5)

    # The gradient of the variational term is that of the variance channels only.
    gradient = jax.jit(jax.grad(lambda out: loss(out)[0].sum()))(raw)
    np.testing.assert_allclose(gradient[..., :2], 2 * error / error[0].size, rtol=1e-3, atol=1e-6)
    h = 1e-5
    numeric = (reference_vb(x0, x, x0_hat, v + h, T) - reference_vb(x0, x, x0_hat, v - h, T)) / h
    np.testing.assert_allclose(gradient[..., 2:].sum((1, 2, 3)), numeric / 2, rtol=5e-3, atol=1e-4)


def test_a_perfect_mean_and_variance_has_no_kl(batch):
    x0, eps, *_ = batch
    output = jnp.concatenate([jnp.float32(eps), -jnp.ones(SHAPE)], -1)  # variance of posterior
    loss = make_loss(process.ddpm(BETAS), prediction.eps_prediction(), learn_variance=True)
    value, eps_error = loss(output, jnp.float32(x0), jnp.float32(eps), jnp.float32(T))
    np.testing.assert_allclose(value[2:], 0, atol=1e-5)
    np.testing.assert_allclose(eps_error, 0, atol=1e-9)


def test_bin_masses_sum_to_one():
    x = jnp.linspace(-1, 1, 256)
    for mean, std in [(0.0, 0.1), (0.8, 0.3), (-1.2, 0.01)]:
        nll = discretized_gaussian_nll(x, jnp.full(256, mean), jnp.full(256, np.log(std)))
        np.testing.assert_allclose(jnp.exp(-nll).sum(), 1, rtol=1e-5)


def test_loss_and_eps_error_of_every_family(family):
    """The loss is the MSE of the output; eps_error is checked by converting with the true x."""
    p, predictions = family
    rng = np.random.default_rng(2)
    x0, eps, error = (jnp.float32(a) for a in rng.normal(size=(3, 8, 4, 4, 2)))
    level = p.level(jnp.linspace(0.1, 0.9, 8))
    x = process.corrupt(p, x0, eps, level)
    for name, kind in predictions.items():
        output = prediction.target(kind, x0, eps, level) + error
        value, eps_error = make_loss(p, kind)(output, x0, eps, level)
        assert value.shape == eps_error.shape == (8,) and value.dtype == jnp.float32
        np.testing.assert_allclose(value, (error**2).mean((1, 2, 3)), rtol=1e-4, err_msg=name)
        _, eps_hat = prediction.to_x0_eps(p, kind, output, x, level)
        direct = ((eps_hat - eps) ** 2).sum((1, 2, 3))
        np.testing.assert_allclose(eps_error, direct, rtol=5e-3, err_msg=name)


def l_simple(output, x0, eps, t):
    """Ho et al. 2020, equation 14."""
    return ((eps - output) ** 2).mean((1, 2, 3))


def l_hybrid(output, x0, eps, t):
    """Nichol & Dhariwal 2021, equation 16, with lambda T = 1 and L_t in bits."""
    eps_hat, v = np.split(output, 2, -1)
    alpha_bar = np.cumprod(1 - BETAS)[t].reshape(-1, 1, 1, 1)
    x = np.sqrt(alpha_bar) * x0 + np.sqrt(1 - alpha_bar) * eps
    x0_hat = (x - np.sqrt(1 - alpha_bar) * eps_hat) / np.sqrt(alpha_bar)
    return l_simple(eps_hat, x0, eps, t) + reference_vb(x0, x, x0_hat, v, t)


def edm_loss(output, x0, eps, sigma, sd=0.5):
    """Karras et al. 2022, equation 2, with the preconditioning and lambda of table 1."""
    s = sigma.reshape(-1, 1, 1, 1)
    d = sd**2 / (s**2 + sd**2) * (x0 + s * eps) + s * sd / np.sqrt(s**2 + sd**2) * output
    return ((s**2 + sd**2) / (s * sd) ** 2 * (d - x0) ** 2).mean((1, 2, 3))


def linear_velocity_loss(output, x0, eps, t):
    """Ma et al. 2024, section 2, on alpha = 1 - t, sigma = t."""
    return ((output - (eps - x0)) ** 2).mean((1, 2, 3))


def gvp_velocity_loss(output, x0, eps, t):
    """The same on alpha = cos(pi t/2), sigma = sin(pi t/2)."""
    angle = np.pi / 2 * t.reshape(-1, 1, 1, 1)
    velocity = np.pi / 2 * (np.cos(angle) * eps - np.sin(angle) * x0)
    return ((output - velocity) ** 2).mean((1, 2, 3))


FLOWS = [process.flow(path) for path in (schedules.linear_path(), schedules.gvp_path())]
TIMES = np.array([0.001, 0.2, 0.7, 0.999])


@pytest.mark.parametrize(
    "p, kind, levels, formula",
    [
        (process.ddpm(BETAS), prediction.eps_prediction(), T, l_simple),
        (process.ddpm(BETAS), prediction.eps_prediction(), T, l_hybrid),
        (process.edm(), prediction.edm_prediction(), np.array([0.01, 0.1, 3.0, 80.0]), edm_loss),
        (FLOWS[0], prediction.velocity_prediction(FLOWS[0]), TIMES, linear_velocity_loss),
        (FLOWS[1], prediction.velocity_prediction(FLOWS[1]), TIMES, gvp_velocity_loss),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_the_losses_of_the_papers(p, kind, levels, formula):
    """Each row of the table in `make_loss`, in float64."""
    learned = formula is l_hybrid
    rng = np.random.default_rng(3)
    x0 = np.round(rng.uniform(0, 255, (len(levels), 4, 4, 2))) / 127.5 - 1
    eps = rng.normal(size=x0.shape)
    output = rng.uniform(-1, 1, (*x0.shape[:-1], 4 if learned else 2))
    found, _ = make_loss(p, kind, learned)(*(jnp.float32(a) for a in (output, x0, eps, levels)))
    np.testing.assert_allclose(found, formula(output, x0, eps, levels), rtol=1e-3)


def test_eps_error_carries_no_gradient(family):
    p, predictions = family
    x0, eps, output = (
        jnp.float32(a) for a in np.random.default_rng(4).normal(size=(3, 8, 4, 4, 2))
    )
    level = p.level(jnp.linspace(0.1, 0.9, 8))
    for kind in predictions.values():
        loss = make_loss(p, kind)
        gradient = jax.grad(lambda o, loss=loss: loss(o, x0, eps, level)[1].sum())(output)
        np.testing.assert_array_equal(gradient, 0)


def test_bf16_outputs_are_compared_in_float32():
    x0 = eps = jnp.zeros((1, 2, 2, 1))
    output = jnp.full((1, 2, 2, 1), 1.0 + 2**-7, jnp.bfloat16)
    value, _ = make_loss(process.ddpm(BETAS), prediction.eps_prediction())(
        output, x0, eps, jnp.zeros(1)
    )
    np.testing.assert_allclose(value, (1 + 2**-7) ** 2, rtol=1e-7)


def test_learned_variance_needs_a_discrete_family():
    with pytest.raises(ValueError, match="family 'edm'; it needs ddpm"):
        make_loss(process.edm(), prediction.edm_prediction(), learn_variance=True)
