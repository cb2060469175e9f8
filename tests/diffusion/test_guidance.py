"""Guidance against separate calls of the network with and without the condition."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cdt.diffusion import process, schedules
from cdt.diffusion.guidance import classifier_free_guidance

NULL = {"label": jnp.int32(10), "text": jnp.float32([0.5, -1.0])}
P = process.ddpm(schedules.linear_betas(1000))
CONDITION = {
    "label": jnp.array([3, 0, 7, 7, 1, 2, 3, 9]),
    "text": jax.random.normal(jax.random.key(1), (8, 2)),
}
LEVEL = jnp.float32([100, 400, 600, 999, 0, 299, 700, 500])
X = jax.random.normal(jax.random.key(0), (8, 4, 4, 2))


def make_network(learn_variance):
    """Return a function of x, level and condition whose mean and variance channels differ."""

    def network(x, level, condition):
        conditioning = condition["label"] + condition["text"].sum(-1)
        scale = jnp.cos(conditioning + level / 300)[:, None, None, None]
        mean = jnp.tanh(x * scale) + scale
        return jnp.concatenate([mean, mean**2 + x], -1) if learn_variance else mean

    return network


@pytest.mark.parametrize("learn_variance", [False, True])
@pytest.mark.parametrize("interval", [None, (0.3, 0.7)])
@pytest.mark.parametrize("scale", [0.0, 1.0, 4.0])
def test_two_calls(learn_variance, interval, scale):
    network = make_network(learn_variance)
    guided = classifier_free_guidance(network, P, CONDITION, NULL, scale, interval)
    null = {"label": jnp.full(8, 10), "text": jnp.tile(NULL["text"], (8, 1))}
    cond = np.asarray(network(X, LEVEL, CONDITION))
    uncond = np.asarray(network(X, LEVEL, null))
    w = np.full((8, 1, 1, 1), scale)
    if interval is not None:  # t = 299 is just below u = 0.3, t = 700 just above 0.7
        w[[0, 3, 4, 5, 6]] = 1
    expected = cond.copy()
    expected[..., :2] = uncond[..., :2] + w * (cond - uncond)[..., :2]
    np.testing.assert_allclose(jax.jit(guided)(X, LEVEL), expected, rtol=1e-5, atol=1e-5)


def test_guidance_of_the_first_channels_only():
    """As DiT's `forward_with_cfg`: the other channels are those of the conditional output."""
    network = make_network(True)
    guided = classifier_free_guidance(network, P, CONDITION, NULL, 4.0, channels=1)
    found = guided(X, LEVEL)
    whole = classifier_free_guidance(network, P, CONDITION, NULL, 4.0)(X, LEVEL)
    np.testing.assert_array_equal(found[..., :1], whole[..., :1])
    np.testing.assert_allclose(found[..., 1:], network(X, LEVEL, CONDITION)[..., 1:], rtol=1e-6)


def test_one_call_of_the_network():
    calls = []

    def network(x, level, condition):
        calls.append(x.shape)
        return x

    classifier_free_guidance(network, P, CONDITION, NULL, 2.0)(X, LEVEL)
    assert calls == [(16, 4, 4, 2)]


@pytest.mark.parametrize("interval", [(0.7, 0.3), (-0.1, 0.5), (0.5, 1.5)])
def test_bad_interval(interval):
    with pytest.raises(ValueError, match="must satisfy 0 <= low < high <= 1"):
        classifier_free_guidance(make_network(False), P, CONDITION, NULL, 2.0, interval)
