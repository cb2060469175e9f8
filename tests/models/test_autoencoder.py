"""Layers of the autoencoder against their definitions, and reading of its weights.

tests/peers compares the whole network with diffusers.
"""

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest

from autoencoder_files import FACTOR, TINY, random_state, tiny_shapes
from cdt.interop.autoencoder_files import autoencoder_of, autoencoder_params
from cdt.models.autoencoder import Attention, Autoencoder, Downsample, Upsample

NETWORK = autoencoder_of(TINY)
STATE = random_state(tiny_shapes())
IMAGES = np.random.default_rng(1).uniform(-1, 1, (2, 8, 12, 3)).astype(np.float32)


@pytest.fixture(scope="module")
def params():
    return autoencoder_params(NETWORK, STATE)


@jax.jit
def encode(params, images):
    return NETWORK.apply({"params": params}, images, method="encode")


def decode(params, latents):
    return NETWORK.apply({"params": params}, latents, method="decode")


def test_shapes_and_types(params):
    moments = jax.eval_shape(encode, params, IMAGES)
    assert moments.mean.shape == moments.log_variance.shape == (2, 8 // FACTOR, 12 // FACTOR, 4)
    images = jax.eval_shape(decode, params, moments.mean)
    assert images.shape == IMAGES.shape and images.dtype == moments.mean.dtype == jnp.float32


def test_defaults_are_stable_diffusion():
    network = Autoencoder()
    images = jax.ShapeDtypeStruct((1, 64, 64, 3), jnp.float32)
    params = jax.eval_shape(network.init, jax.random.key(0), images)["params"]
    count = sum(np.prod(leaf.shape) for leaf in jax.tree.leaves(params))
    assert count == 83_653_863  # as published
    moments = jax.eval_shape(lambda p, x: network.apply(p, x, method="encode"),
                             {"params": params}, images)  # fmt: skip
    assert moments.mean.shape == (1, 8, 8, 4) and network.downsampling == 8


def test_log_variance_is_clipped(params):
    bias = np.array([0, 0, 0, 0, 1e3, -1e3, 0, 0], np.float32)
    moments = encode(params | {"quant_conv": params["quant_conv"] | {"bias": bias}}, IMAGES)
    assert np.all(moments.log_variance[..., 0] == 20)
    assert np.all(moments.log_variance[..., 1] == -30)


def test_sides_that_cannot_be_halved(params):
    with pytest.raises(ValueError, match="8x13.*divisible by 2"):
        jax.eval_shape(encode, params, np.zeros((1, 8, 13, 3), np.float32))


def kernel_with(tap):
    """Return parameters whose kernel is the identity on two channels at one tap, zero elsewhere."""
    kernel = np.zeros((3, 3, 2, 2), np.float32)
    kernel[tap] = np.eye(2)
    return {"params": {"conv": {"kernel": kernel, "bias": np.zeros(2, np.float32)}}}


def test_downsample_pads_below_and_right_only():
    x = np.random.default_rng(0).standard_normal((1, 6, 4, 2)).astype(np.float32)
    np.testing.assert_array_equal(
        jax.jit(Downsample().apply)(kernel_with((0, 0)), x), x[:, ::2, ::2]
    )
    last = np.asarray(jax.jit(Downsample().apply)(kernel_with((2, 2)), x))
    np.testing.assert_array_equal(last[:, :-1, :-1], x[:, 2::2, 2::2])
    assert not last[:, -1].any() and not last[:, :, -1].any()


def test_upsample_repeats_pixels():
    x = np.random.default_rng(0).standard_normal((1, 3, 2, 2)).astype(np.float32)
    up = jax.jit(Upsample().apply)(kernel_with((1, 1)), x)
    np.testing.assert_array_equal(up, np.kron(x, np.ones((1, 2, 2, 1), np.float32)))


def test_attention_with_equal_scores_is_the_mean():
    x = np.random.default_rng(0).standard_normal((2, 3, 4, 8)).astype(np.float32)
    params = jax.jit(Attention(groups=2).init)(jax.random.key(0), x)["params"]
    params["to_q"]["kernel"] *= 0
    params["to_v"]["kernel"] = params["to_out_0"]["kernel"] = jnp.eye(8)
    grouped = x.reshape(2, 12, 2, 4).astype(np.float64)
    normed = (grouped - grouped.mean((1, 3), keepdims=True)) / np.sqrt(
        grouped.var((1, 3), keepdims=True) + 1e-6
    )
    mean = normed.reshape(2, 12, 8).mean(1)[:, None, None]
    found = jax.jit(Attention(groups=2).apply)({"params": params}, x)
    np.testing.assert_allclose(found, x + mean, atol=1e-6)


def test_weights_are_transposed(params):
    kernel = params["encoder"]["down_blocks_1"]["resnets_0"]["conv1"]["kernel"]
    torch_kernel = STATE["encoder.down_blocks.1.resnets.0.conv1.weight"]
    assert kernel.shape == (3, 3, 8, 16) and kernel[0, 2, 5, 11] == torch_kernel[11, 5, 0, 2]
    norm = params["decoder"]["conv_norm_out"]["scale"]
    np.testing.assert_array_equal(norm, STATE["decoder.conv_norm_out.weight"])
    linear = params["decoder"]["mid_block"]["attentions_0"]["to_k"]["kernel"]
    np.testing.assert_array_equal(linear.T, STATE["decoder.mid_block.attentions.0.to_k.weight"])
    assert sum(leaf.size for leaf in jax.tree.leaves(params)) == sum(a.size for a in STATE.values())


def test_older_names_of_attention(params):
    older = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    state = {}
    for name, array in STATE.items():
        for new, old in older.items():
            name = name.replace(f".{new}.", f".{old}.")
        state[name] = array
    assert set(state) != set(STATE)
    jax.tree.map(np.testing.assert_array_equal, autoencoder_params(NETWORK, state), params)


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16])
def test_half_precision_weights_become_float32(dtype):
    state = {name: array.astype(dtype) for name, array in STATE.items()}
    params = autoencoder_params(NETWORK, state)
    assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {np.dtype(np.float32)}
    bias = state["quant_conv.bias"].astype(np.float32)
    np.testing.assert_array_equal(params["quant_conv"]["bias"], bias)


def test_the_first_mismatch_is_named():
    name = "encoder.mid_block.attentions.0.to_v.weight"
    for state, words in [
        ({k: v for k, v in STATE.items() if k != name}, f"no {name}"),
        (STATE | {name: STATE[name][:8]}, rf"{name} is \[8, 16\] and not \[16, 16\]"),
        (STATE | {"quant_conv.weight": STATE["quant_conv.weight"].reshape(1, 1, 8, 8)},
         r"quant_conv.weight is \[1, 1, 8, 8\] and not \[8, 8, 1, 1\]"),
        (STATE | {"decoder.extra": np.zeros(1)}, "decoder.extra has no place"),
    ]:  # fmt: skip
        with pytest.raises(ValueError, match=words):
            autoencoder_params(NETWORK, state)


def test_sizes_are_read_from_the_config():
    assert NETWORK == Autoencoder((8, 16), 1, 4, 3, 4)
    assert autoencoder_of({}) == Autoencoder()


@pytest.mark.parametrize(
    "changed, words",
    [
        ({"_class_name": "AutoencoderTiny"}, "'AutoencoderTiny' and not 'AutoencoderKL'"),
        ({"act_fn": "gelu"}, "act_fn is 'gelu'"),
        ({"use_quant_conv": False}, "use_quant_conv is False"),
        ({"down_block_types": ["DownEncoderBlock2D", "AttnDown"]}, "has 'AttnDown'"),
        ({"block_out_channels": [8, "16"]}, "positive integers"),
        ({"block_out_channels": []}, "positive integers"),
        ({"layers_per_block": 0}, "positive integers"),
    ],
)
def test_configs_of_other_networks(changed, words):
    with pytest.raises(ValueError, match=words):
        autoencoder_of(TINY | changed)
