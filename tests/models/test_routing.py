"""Task routing: the masks against their formula, a masked block in NumPy, and the whole DiT."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cdt.diffusion.process import ddpm, edm, flow
from cdt.diffusion.schedules import linear_betas, linear_path
from cdt.models.dit import DiT, DiTBlock
from cdt.models.layers import unconstrained
from cdt.models.routing import routing_mask, task_routing
from cdt.sampling.grids import rounded_timesteps

DDPM, EDM, FLOW = ddpm(linear_betas(1000)), edm(), flow(linear_path())
ROUTED = DiT(
    patch_size=2, hidden_size=32, depth=3, num_heads=4, out_channels=2, num_classes=10,
    routing=task_routing(DDPM.position),
)  # fmt: skip
X = jax.random.normal(jax.random.key(1), (4, 8, 8, 1))
TIME = jnp.array([0.0, 400.0, 800.0, 999.0])
LABEL = jnp.array([0, 5, 9, 10], jnp.int32)


def perturbed(params, seed=2):
    """Return parameters without the zeros of the initialisation."""
    leaves, tree = jax.tree.flatten(params)
    keys = jax.random.split(jax.random.key(seed), len(leaves))
    leaves = [p + 0.1 * jax.random.normal(k, p.shape) for p, k in zip(leaves, keys, strict=True)]
    return jax.tree.unflatten(tree, leaves)


@pytest.fixture(scope="module")
def params():
    return perturbed(jax.jit(ROUTED.init)(jax.random.key(0), X, TIME, LABEL))


def expected_masks(position, width, alpha, beta):
    """Return windows of floor(beta D) ones, with a rounded start."""
    kept = int(np.floor(beta * width))
    masks = np.zeros((len(position), width))
    for row, s in zip(masks, position, strict=True):
        start = int(np.rint(s**alpha * (width - kept)))
        row[start : start + kept] = 1
    return masks


@pytest.mark.parametrize("width", [32, 384, 1152])
@pytest.mark.parametrize("alpha, beta", [(4.0, 0.8), (1.0, 0.5), (0.5, 0.9), (4.0, 1.0)])
def test_masks_of_every_timestep(width, alpha, beta):
    t = np.arange(1000)
    found = jax.jit(task_routing(DDPM.position, alpha, beta), static_argnums=1)(
        jnp.asarray(t, jnp.float32), width
    )
    assert found.shape == (1000, width) and found.dtype == jnp.float32
    np.testing.assert_array_equal(found, expected_masks(t / 999, width, alpha, beta))
    kept = int(beta * width)
    assert found[0].tolist() == [1] * kept + [0] * (width - kept)  # the clean end
    assert found[-1].tolist() == [0] * (width - kept) + [1] * kept


@pytest.mark.parametrize("process", [EDM, FLOW], ids=lambda p: p.name)
def test_continuous_families_are_routed_by_u(process):
    u = np.linspace(0.01, 0.99, 50)
    time = process.time_input(process.level(jnp.asarray(u, jnp.float32)))
    np.testing.assert_allclose(process.position(time), u, atol=1e-5)
    found = task_routing(process.position)(time, 64)
    np.testing.assert_array_equal(found, expected_masks(u, 64, 4.0, 0.8))


def test_respaced_timesteps_keep_their_masks():
    grid = rounded_timesteps(1000, 7)[:-1]
    found = task_routing(DDPM.position)(DDPM.time_input(jnp.asarray(grid, jnp.float32)), 384)
    np.testing.assert_array_equal(found, expected_masks(grid / 999, 384, 4.0, 0.8))


def block_in_numpy(p, x, condition, heads):
    """Return the adaLN-Zero block (Peebles & Xie 2023) of one example, float64 tokens [N, D]."""

    def dense(layer, y):
        return y @ layer["kernel"] + layer["bias"]

    def modulated(y, shift, scale):
        y = (y - y.mean(1, keepdims=True)) / np.sqrt(y.var(1, keepdims=True) + 1e-6)
        return y * (1 + scale) + shift

    shift_1, scale_1, gate_1, shift_2, scale_2, gate_2 = np.split(dense(p["adaln"], condition), 6)
    q, k, v = np.split(dense(p["attention"]["qkv"], modulated(x, shift_1, scale_1)), 3, axis=1)
    out, d = np.zeros_like(x), x.shape[1] // heads
    for h in range(heads):
        part = slice(h * d, (h + 1) * d)
        scores = np.exp(q[:, part] @ k[:, part].T / np.sqrt(d))
        out[:, part] = scores / scores.sum(1, keepdims=True) @ v[:, part]
    x = x + gate_1 * dense(p["attention"]["out"], out)
    hidden = dense(p["mlp"]["in"], modulated(x, shift_2, scale_2))
    hidden = 0.5 * hidden * (1 + np.tanh(np.sqrt(2 / np.pi) * (hidden + 0.044715 * hidden**3)))
    return x + gate_2 * dense(p["mlp"]["out"], hidden)


def test_a_masked_block_against_its_formula():
    heads, width = 2, 16
    x = jax.random.normal(jax.random.key(3), (4, 5, width))
    condition = jax.random.normal(jax.random.key(4), (4, width))
    mask = routing_mask(TIME / 999, width)
    block = DiTBlock(heads, 4 * width, jnp.float32, unconstrained, False)
    params = perturbed(jax.jit(block.init)(jax.random.key(5), x, condition, mask))
    found, _ = jax.jit(block.apply)(params, x, condition, mask)

    p, x, condition, mask = jax.tree.map(
        lambda a: np.asarray(a, np.float64), (params["params"], x, condition, mask)
    )
    for i in range(len(x)):
        m = mask[i]
        expected = block_in_numpy(p, m * x[i], condition[i], heads) + (1 - m) * x[i]
        np.testing.assert_allclose(found[i], expected, rtol=1e-4, atol=1e-5)
        assert np.abs(found[i] - block_in_numpy(p, x[i], condition[i], heads)).max() > 1e-2
        assert np.abs(found[i] - x[i]).min(0).min() > 0  # masked channels are updated too


def test_every_block_of_the_dit_is_masked(params):
    """Against the network without routing, with each call of a block masked from outside."""
    plain, masks = ROUTED.clone(routing=None), routing_mask(TIME / 999, 32)[:, None]

    def routed_outside(method, args, kwargs, context):
        if not isinstance(context.module, DiTBlock) or context.method_name != "__call__":
            return method(*args, **kwargs)
        x, condition, no_mask = args
        assert no_mask is None
        return method(masks * x, condition, None)[0] + (1 - masks) * x, None

    with nn.intercept_methods(routed_outside):
        # A new function: otherwise JAX would reuse this trace for `plain.apply` below.
        expected = jax.jit(lambda p: plain.apply(p, X, TIME, LABEL))(params)
    found = jax.jit(ROUTED.apply)(params, X, TIME, LABEL)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
    unrouted = jax.jit(plain.apply)(params, X, TIME, LABEL)
    assert np.abs(expected - unrouted).max() > 1e-2


def loss_and_gradient(model, params):
    return jax.jit(jax.value_and_grad(lambda p: jnp.mean(jnp.sin(model.apply(p, X, TIME, LABEL)))))(
        params
    )


@pytest.fixture(scope="module")
def reference(params):
    return loss_and_gradient(ROUTED, params)


@pytest.mark.slow
@pytest.mark.parametrize("unroll, remat", [(True, "none"), (False, "block"), (True, "elementwise")])
def test_unroll_and_remat_change_nothing(params, reference, unroll, remat):
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6),
        loss_and_gradient(ROUTED.clone(unroll=unroll, remat=remat), params),
        reference,
    )


def test_routing_of_all_channels_is_the_plain_dit(params):
    plain = ROUTED.clone(routing=None)
    jax.tree.map(
        np.testing.assert_array_equal,
        *(jax.jit(m.init)(jax.random.key(0), X, TIME, LABEL) for m in (plain, ROUTED)),
    )
    all_channels = ROUTED.clone(routing=task_routing(DDPM.position, beta=1.0))
    outputs = [jax.jit(m.apply)(params, X, TIME, LABEL) for m in (plain, all_channels)]
    np.testing.assert_allclose(*outputs, rtol=1e-6)


def test_bad_constants():
    with pytest.raises(ValueError, match="alpha is 0; it must be positive"):
        task_routing(DDPM.position, alpha=0.0)
    for beta in (0.0, 1.1):
        with pytest.raises(ValueError, match=r"must lie in \(0, 1\]"):
            task_routing(DDPM.position, beta=beta)
    with pytest.raises(ValueError, match="leaves none of 32 channels; it must be at least 0.03125"):
        routing_mask(TIME, 32, beta=0.01)
