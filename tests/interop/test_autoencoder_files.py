"""Reading of a diffusers AutoencoderKL: names, layouts and sizes of its files."""

import jax
import ml_dtypes
import numpy as np
import pytest

from autoencoder_files import TINY, random_state, tiny_shapes
from cdt.interop.autoencoder_files import autoencoder_of, autoencoder_params
from cdt.models.autoencoder import Autoencoder

NETWORK = autoencoder_of(TINY)
STATE = random_state(tiny_shapes())


@pytest.fixture(scope="module")
def params():
    return autoencoder_params(NETWORK, STATE)


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
        (STATE | {name: STATE[name][:8]}, rf"{name} is \[8, 16\], not \[16, 16\]"),
        (STATE | {"quant_conv.weight": STATE["quant_conv.weight"].reshape(1, 1, 8, 8)},
         r"quant_conv.weight is \[1, 1, 8, 8\], not \[8, 8, 1, 1\]"),
        (STATE | {"decoder.extra": np.zeros(1)}, "decoder.extra is not a layer"),
    ]:  # fmt: skip
        with pytest.raises(ValueError, match=words):
            autoencoder_params(NETWORK, state)


def test_sizes_are_read_from_the_config():
    assert NETWORK == Autoencoder((8, 16), 1, 4, 3, 4)
    assert autoencoder_of({}) == Autoencoder()


@pytest.mark.parametrize(
    "changed, words",
    [
        ({"_class_name": "AutoencoderTiny"}, "'AutoencoderTiny', not 'AutoencoderKL'"),
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
