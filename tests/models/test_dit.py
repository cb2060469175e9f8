"""The DiT: shapes, initialisation, and the same result with every way to run it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cdt.models.dit import DIT_SIZES, DiT, named_dit
from cdt.models.remat import REMATS

SMALL = DiT(patch_size=2, hidden_size=32, depth=3, num_heads=4, out_channels=2, num_classes=10)
X = jax.random.normal(jax.random.key(1), (4, 8, 8, 1))
TIME = jnp.array([0.0, 0.3, 17.0, 999.0])
LABEL = jnp.array([0, 5, 9, 10], jnp.int32)


def perturbed(module, *args):
    """Return parameters without the zeros of the initialisation."""
    params = jax.jit(module.init)(jax.random.key(0), *args)
    leaves, tree = jax.tree.flatten(params)
    keys = jax.random.split(jax.random.key(2), len(leaves))
    leaves = [p + 0.05 * jax.random.normal(k, p.shape) for p, k in zip(leaves, keys, strict=True)]
    return jax.tree.unflatten(tree, leaves)


@pytest.fixture(scope="module")
def params():
    return perturbed(SMALL, X, TIME, LABEL)


@pytest.fixture(scope="module")
def output(params):
    return jax.jit(SMALL.apply)(params, X, TIME, LABEL)


def loss_and_gradient(module, params):
    return jax.jit(
        jax.value_and_grad(lambda p: jnp.mean(jnp.sin(module.apply(p, X, TIME, LABEL))))
    )(params)


@pytest.fixture(scope="module")
def reference(params):
    return loss_and_gradient(SMALL, params)


# Trainable parameters in millions, with patch size 2, 4 channels, learned variance, 1000 classes.
@pytest.mark.parametrize(
    "size, millions", [("S", 32.87), ("B", 130.32), ("L", 457.84), ("XL", 674.83)]
)
def test_parameter_totals(size, millions):
    model = named_dit(f"{size}/2", out_channels=8, num_classes=1000)
    latents, ones = jnp.zeros((1, 32, 32, 4)), jnp.ones(1, jnp.int32)
    shapes = jax.eval_shape(model.init, jax.random.key(0), latents, ones, ones)
    total = sum(p.size for p in jax.tree.leaves(shapes))
    assert round(total / 1e6, 2) == millions
    blocks = jax.tree.leaves(shapes["params"]["blocks"])
    assert {p.shape[0] for p in blocks} == {DIT_SIZES[size][0]}


def test_output_is_zero_at_initialisation():
    params = jax.jit(SMALL.init)(jax.random.key(0), X, TIME, LABEL)
    output = jax.jit(SMALL.apply)(params, X, TIME, LABEL)
    assert output.shape == (4, 8, 8, 2) and output.dtype == jnp.float32
    np.testing.assert_array_equal(output, 0)


def test_initialisation():
    model = named_dit("S/2", out_channels=4, num_classes=10)
    params = jax.jit(model.init)(jax.random.key(0), jnp.zeros((1, 8, 8, 4)), TIME[:1], LABEL[:1])
    params = params["params"]
    blocks = params["blocks"]
    for kernel, fan_in, fan_out in [
        (params["patch_embed"]["kernel"], 16, 384),  # fan-in: flattened patch
        (blocks["attention"]["qkv"]["kernel"], 384, 3 * 384),  # the fused kernel
        (blocks["attention"]["out"]["kernel"], 384, 384),
        (blocks["mlp"]["in"]["kernel"], 384, 1536),
        (blocks["mlp"]["out"]["kernel"], 1536, 384),
    ]:
        assert kernel.shape[-2:] == (fan_in, fan_out)
        limit = np.sqrt(6 / (fan_in + fan_out))
        assert np.abs(kernel).max() == pytest.approx(limit, rel=0.02)
        assert np.std(kernel) == pytest.approx(limit / np.sqrt(3), rel=0.02)
    for zero in (blocks["adaln"], params["final_adaln"], params["final"]):
        jax.tree.map(lambda p: np.testing.assert_array_equal(p, 0), zero)
    first, second = blocks["mlp"]["in"]["kernel"][:2]
    assert (
        abs(np.corrcoef(first.ravel(), second.ravel())[0, 1]) < 0.01
    )  # blocks are drawn independently


# Each value once; the other combinations have the marker `long`.
@pytest.mark.parametrize(
    "unroll, remat",
    [
        pytest.param(unroll, remat, marks=[pytest.mark.long] * (unroll == (remat == "block")))
        for unroll in (False, True)
        for remat in REMATS
    ],
)
def test_unroll_and_remat_change_nothing(params, reference, unroll, remat):
    model = SMALL.clone(unroll=unroll, remat=remat)
    initial, same = (jax.jit(m.init)(jax.random.key(0), X, TIME, LABEL) for m in (SMALL, model))
    jax.tree.map(np.testing.assert_array_equal, initial, same)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6),
        loss_and_gradient(model, params),
        reference,
    )


@pytest.mark.slow
@pytest.mark.parametrize("cpu", [True, False])
def test_remat_of_elementwise_work_keeps_the_dense_products(params, cpu, monkeypatch):
    monkeypatch.setattr("cdt.models.dense.cpu_matmuls", lambda: cpu)
    flops = {}
    for remat in REMATS:
        model = SMALL.clone(remat=remat, unroll=True)
        program = jax.jit(lambda p, m=model: loss_and_gradient(m, p)).lower(params).compile()
        flops[remat] = program.cost_analysis()["flops"]
    recomputed = (flops["elementwise"] - flops["none"]) / (flops["block"] - flops["none"])
    assert 0.0 < recomputed < 0.3  # products of attention, and elementwise operations


def test_separate_queries_keys_and_values_change_nothing(params, reference):
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6),
        loss_and_gradient(SMALL.clone(separate_qkv=True), params),
        reference,
    )


def test_flattened_tokens_change_nothing(params, reference, monkeypatch):
    monkeypatch.setattr("cdt.models.dense.cpu_matmuls", lambda: False)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6),
        loss_and_gradient(SMALL, params),
        reference,
    )


def test_every_input_affects_its_own_example_only(params, output):
    changed = [
        jax.jit(SMALL.apply)(params, X.at[0].add(1.0), TIME, LABEL),
        jax.jit(SMALL.apply)(params, X, TIME.at[0].set(0.5), LABEL),
        jax.jit(SMALL.apply)(params, X, TIME, LABEL.at[0].set(10)),
    ]
    for other in changed:
        assert np.abs(other[0] - output[0]).max() > 1e-3
        np.testing.assert_allclose(other[1:], output[1:], rtol=1e-5, atol=1e-6)


def test_unconditional():
    model = SMALL.clone(num_classes=None)
    params = perturbed(model, X, TIME)
    assert "label_embed" not in params["params"]
    assert jax.jit(model.apply)(params, X, TIME).shape == (4, 8, 8, 2)


def test_images_need_not_be_square(params):
    wide = jnp.concatenate([X, X], axis=2)
    assert jax.jit(SMALL.apply)(params, wide, TIME, LABEL).shape == (4, 8, 16, 2)


def test_bfloat16_is_close_to_float32(params, output):
    model = SMALL.clone(dtype=jnp.bfloat16)
    initial = jax.jit(model.init)(jax.random.key(0), X, TIME, LABEL)
    assert {p.dtype for p in jax.tree.leaves(initial)} == {jnp.dtype("float32")}
    rounded = jax.jit(model.apply)(params, X, TIME, LABEL)
    assert rounded.dtype == jnp.float32
    error = np.linalg.norm(rounded - output) / np.linalg.norm(output)
    assert 1e-5 < error < 0.02  # bfloat16 has 8 bits


@pytest.mark.parametrize(
    "change, image, label, message",
    [
        ({}, X[:, :7], LABEL, "image size 7x8 is not divisible by the patch size 2"),
        ({"num_heads": 5}, X, LABEL, "width 32 must be divisible by the 5 attention heads"),
        ({"hidden_size": 30, "num_heads": 5}, X, LABEL, "width 30 must be divisible by 4"),
        ({}, X, None, "DiT has 10 classes; it needs a label"),
        ({"num_classes": None}, X, LABEL, "DiT has no classes; it takes no label"),
    ],
)
def test_bad_input(change, image, label, message):
    model = SMALL.clone(**change)
    with pytest.raises(ValueError, match=message):
        jax.eval_shape(model.init, jax.random.key(0), image, TIME, label)


@pytest.mark.parametrize("name", ["M/2", "S", "S/0", "S/x", "S/2/2", ""])
def test_bad_name(name):
    with pytest.raises(ValueError, match="must be SIZE/PATCH"):
        named_dit(name, out_channels=1)
