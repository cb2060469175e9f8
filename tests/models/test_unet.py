"""The U-Nets: sizes, initialisation, attention, dropout, and the same result with every way to run
them."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cdt.models import unet
from cdt.models.layers import attention
from cdt.models.unet import ADM, ADM_SIZES, DDPMPP, DDPMPP_SIZES, Attention, Block, adm, ddpmpp
from cdt.models.unet_layers import downsample

CONSTRUCTORS = {"adm": adm, "ddpmpp": ddpmpp}
STYLES = {"adm": ADM, "ddpmpp": DDPMPP}
SMALL = dict(
    channels=32, channel_mult=(1, 2), num_blocks=1, attention_resolutions=(4,), dropout=0.3,
    out_channels=2, num_classes=10,
)  # fmt: skip
SINGLE = SMALL | dict(channel_mult=(2,), attention_resolutions=())  # one level, faster to compile
X = jax.random.normal(jax.random.key(1), (4, 8, 8, 1))
TIME = jnp.array([-1.5, 0.3, 17.0, 999.0])
LABEL = jnp.array([0, 5, 9, 10], jnp.int32)

KEY = jax.random.key(0)

each_style = pytest.mark.parametrize("style", CONSTRUCTORS)


def shapes_of(model, *args):
    return jax.eval_shape(model.init, KEY, *args)


def random_params(model, *args):
    """Return random parameters of the usual scale, without the zeros of the initialisation."""
    rng = np.random.default_rng(0)

    def draw(path, leaf):
        noise = rng.standard_normal(leaf.shape, dtype=np.float32)
        if path[-1].key == "kernel":
            return noise / math.sqrt(np.prod(leaf.shape[:-1]))
        return 0.2 * noise + (path[-1].key == "scale")

    return jax.tree_util.tree_map_with_path(draw, shapes_of(model, *args))


class Case:
    """A small network with random parameters and its jitted function."""

    def __init__(self, style):
        self.style = style
        self.model = CONSTRUCTORS[style](**SMALL)
        self.params = random_params(self.model, X, TIME, LABEL)
        self.apply = jax.jit(self.model.apply)
        self.output = self.apply(self.params, X, TIME, LABEL)


@pytest.fixture(scope="module", params=CONSTRUCTORS)
def case(request):
    return Case(request.param)


# EDM's networks without their augmentation layer: 295.9, 55.7 and 61.8 million parameters.
@pytest.mark.parametrize(
    "style, size, side, classes, total",
    [
        ("adm", "imagenet64", 64, 1000, 295_899_267),
        ("ddpmpp", "cifar10", 32, None, 55_732_739),
        ("ddpmpp", "cifar10", 32, 10, 55_734_147),
        ("ddpmpp", "ffhq64", 64, None, 61_804_419),
    ],
)
def test_parameter_totals(style, size, side, classes, total):
    sizes = {"adm": ADM_SIZES, "ddpmpp": DDPMPP_SIZES}[style]
    model = CONSTRUCTORS[style](**sizes[size], out_channels=3, num_classes=classes)
    label = None if classes is None else LABEL[:1]
    leaves = jax.tree.leaves(shapes_of(model, jnp.zeros((1, side, side, 3)), TIME[:1], label))
    assert sum(p.size for p in leaves) == total
    assert {p.dtype for p in leaves} == {jnp.dtype("float32")}


@each_style
def test_initialisation(style):
    """Uniform within the limits of the paper's code; the output is zero or nearly zero."""
    model = CONSTRUCTORS[style](**SINGLE)
    params = random_params(model, X, TIME, LABEL)
    for part in (
        "condition",
        "middle_0",
        "final",
    ):  # the network initialises these again; all of it is slow
        del params["params"][part]
    initialise = functools.partial(model.apply, mutable="params")
    output, params = jax.jit(initialise)(params, X, TIME, LABEL, rngs={"params": KEY})
    params = params["params"]
    block, condition = params["middle_0"], params["condition"]
    last = [block["conv_out"], block["attention"]["out"], params["final"]]
    modulation = (2 if style == "adm" else 1) * 64
    plain = [  # layer, fan-in, fan-out
        (block["conv_in"], 9 * 64, 9 * 64),
        (block["condition"], 128, modulation),
        (condition["time_out"], 128, 128),
    ]
    qkv, label = block["attention"]["qkv"], condition["label"]

    def check(layer, limit):
        assert np.abs(layer["kernel"]).max() == pytest.approx(limit, rel=0.05)
        assert np.std(layer["kernel"]) == pytest.approx(limit / math.sqrt(3), rel=0.1)

    if style == "adm":  # PyTorch's own initialisation; zeros
        np.testing.assert_array_equal(output, 0)
        for layer, fan_in, _ in [*plain, (qkv, 64, 3 * 64)]:
            check(layer, 1 / math.sqrt(fan_in))
            assert np.abs(layer["bias"]).max() == pytest.approx(1 / math.sqrt(fan_in), rel=0.1)
        assert np.std(label["kernel"]) == pytest.approx(1, rel=0.1)
        assert "bias" not in label
    else:  # Xavier-uniform, without biases
        assert 0 < np.abs(output).max() < 1e-3
        for layer, fan_in, fan_out in [*plain, (label, 10, 32)]:
            check(layer, math.sqrt(6 / (fan_in + fan_out)))
            np.testing.assert_array_equal(layer["bias"], 0)
        check(qkv, math.sqrt(0.2 * 6 / (4 * 64)))
        check(last[0], 1e-5 * math.sqrt(6 / (2 * 9 * 64)))
    for layer in last:
        np.testing.assert_array_equal(layer["bias"], 0)


@each_style
def test_attention_is_at_its_resolutions_and_in_the_middle(style):
    model = CONSTRUCTORS[style](
        **SMALL | dict(channel_mult=(1, 1, 2), attention_resolutions=(16, 4))
    )
    params = shapes_of(model, jnp.zeros((1, 16, 16, 1)), TIME[:1], LABEL[:1])["params"]
    found = {name for name, block in params.items() if "attention" in block}
    expected = {"encoder_0_0", "encoder_2_0", "middle_0", "decoder_2_1", "decoder_0_1"}
    if style == "adm":  # DDPM++ attends once on the way up
        expected |= {"decoder_2_0", "decoder_0_0"}
    assert found == expected


@pytest.mark.parametrize(
    "style, channels, heads",
    [("adm", 192, 3), ("adm", 32, 1), ("ddpmpp", 192, 1), ("ddpmpp", 32, 1)],
)
def test_heads_have_64_channels_in_adm_only(style, channels, heads, monkeypatch):
    shapes = []
    monkeypatch.setattr(
        unet, "attention", lambda q, k, v: shapes.append(q.shape) or attention(q, k, v)
    )
    shapes_of(Attention(STYLES[style], jnp.float32), jnp.zeros((2, 3, 4, channels)))
    assert shapes == [(2, 12, heads, channels // heads)]


@each_style
def test_dropout_needs_random_numbers(style):
    x, condition = jnp.ones((2, 4, 4, 32)) * TIME[:2, None, None, None], jnp.ones((2, 8))
    block = Block(32, False, 0.5, STYLES[style], jnp.float32)
    params = random_params(block, x, condition)
    apply = jax.jit(block.apply)
    whole = apply(params, x, condition)
    without = jax.jit(block.clone(dropout=0.0).apply)(params, x, condition)
    np.testing.assert_array_equal(whole, without)
    rngs = [{"dropout": jax.random.key(seed)} for seed in (0, 0, 1)]
    first, again, other = (apply(params, x, condition, rngs=rng) for rng in rngs)
    np.testing.assert_array_equal(first, again)
    for a, b in [(first, other), (first, whole)]:
        assert np.std(a - b) > 0.1 * np.std(whole)


def test_the_network_drops_features_only_with_random_numbers(case):
    def program(**rngs):
        apply = functools.partial(case.model.apply, **rngs)
        return str(jax.make_jaxpr(apply)(case.params, X, TIME, LABEL))

    assert "random_bits" not in program()
    assert "random_bits" in program(rngs={"dropout": KEY})


@functools.cache
def loss_and_gradient(style, remat):
    model = CONSTRUCTORS[style](**SINGLE, remat=remat)
    params = random_params(model, X, TIME, LABEL)

    def loss(params):
        rngs = {"dropout": KEY}
        return jnp.mean(jnp.sin(model.apply(params, X, TIME, LABEL, rngs=rngs)))

    return jax.jit(jax.value_and_grad(loss))(params)


@each_style
def test_gradient_reaches_every_parameter(style):
    _, gradient = loss_and_gradient(style, remat="none")
    for path, leaf in jax.tree_util.tree_leaves_with_path(gradient):
        name = jax.tree_util.keystr(path)
        assert np.isfinite(leaf).all(), name
        assert np.abs(leaf).max() > 1e-5, name


@pytest.mark.slow
@pytest.mark.parametrize("remat", ["elementwise", "block"])
def test_remat_changes_nothing(remat):
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6),
        loss_and_gradient("adm", remat),
        loss_and_gradient("adm", remat="none"),
    )


def test_every_input_affects_its_own_example_only(case):
    changed = [
        case.apply(case.params, X.at[0].add(1.0), TIME, LABEL),
        case.apply(case.params, X, TIME.at[0].set(0.5), LABEL),
        case.apply(case.params, X, TIME, LABEL.at[0].set(10)),
    ]
    for other in changed:
        assert np.abs(other[0] - case.output[0]).max() > 1e-3
        np.testing.assert_allclose(other[1:], case.output[1:], rtol=1e-5, atol=1e-5)


def test_the_null_label_embeds_to_zero(case):
    """For any class embeddings; with zero embeddings every class equals the null class."""
    params = jax.tree.map(lambda p: p, case.params)
    kernel = params["params"]["condition"]["label"]["kernel"]
    params["params"]["condition"]["label"]["kernel"] = 0 * kernel
    null = jnp.full_like(LABEL, 10)
    without = case.apply(params, X, TIME, null)
    np.testing.assert_array_equal(case.apply(case.params, X, TIME, null), without)
    np.testing.assert_array_equal(case.apply(params, X, TIME, LABEL), without)


@each_style
def test_unconditional(style):
    model = CONSTRUCTORS[style](**SMALL | dict(num_classes=None))
    assert "label" not in shapes_of(model, X, TIME)["params"]["condition"]


def test_images_need_not_be_square(case):
    wide = jnp.concatenate([X, X], axis=2)
    output = jax.eval_shape(case.model.apply, case.params, wide, TIME, LABEL)
    assert output.shape == (4, 8, 16, 2)


@each_style
def test_bfloat16_is_close_to_float32(style):
    x, condition = jnp.tile(X, 32), jax.random.normal(jax.random.key(2), (4, 8))
    block = Block(64, True, 0.0, STYLES[style], jnp.float32, downsample)
    params = random_params(block, x, condition)
    exact, rounded = (
        jax.jit(block.clone(dtype=dtype).apply)(params, x.astype(dtype), condition.astype(dtype))
        for dtype in (jnp.float32, jnp.bfloat16)
    )
    assert rounded.dtype == jnp.bfloat16
    error = np.linalg.norm(rounded.astype(jnp.float32) - exact) / np.linalg.norm(exact)
    assert 1e-5 < error < 0.02  # bfloat16 has 8 bits


def test_bfloat16_runs_through_the_whole_network(case):
    model = case.model.clone(dtype=jnp.bfloat16)
    program = jax.make_jaxpr(model.apply)(case.params, X, TIME, LABEL)
    (output,) = program.out_avals
    assert output.dtype == jnp.float32
    convolved = [e for e in program.eqns if e.primitive.name == "conv_general_dilated"]
    assert len(convolved) == 22  # two per block, stem and output
    assert {v.aval.dtype for e in convolved for v in e.invars} == {jnp.dtype(jnp.bfloat16)}


@pytest.mark.parametrize(
    "change, image, label, message",
    [
        ({}, X[:, :7], LABEL, "image size 7x8 cannot be halved 1 times"),
        ({"channel_mult": (1, 1, 1, 1, 1)}, X, LABEL, "image size 8x8 cannot be halved 4 times"),
        (
            {"attention_resolutions": (4, 16)},
            X,
            LABEL,
            "attention_resolutions has 16; .* resolutions 8, 4",
        ),
        ({"channels": 50}, X, LABEL, "50 channels, .* into 12 groups; make .* a multiple of 32"),
        (
            {"channels": 224, "channel_mult": (1,)},
            X,
            LABEL,
            "must be divisible by the 3 attention heads",
        ),
        ({}, X, None, "U-Net has 10 classes; it needs a label"),
        ({"num_classes": None}, X, LABEL, "U-Net has no classes; it takes no label"),
    ],
)
def test_bad_input(change, image, label, message):
    change = {"attention_resolutions": ()} | change
    with pytest.raises(ValueError, match=message):
        shapes_of(adm(**SMALL | change), image, TIME, label)
