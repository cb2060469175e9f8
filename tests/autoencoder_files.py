"""Files of a small AutoencoderKL as diffusers writes them, with random weights, without diffusers.

Names and shapes are copied from its state dict; tests/peers compares them with diffusers.
"""

import json

import numpy as np
from safetensors.numpy import save_file

TINY = {
    "_class_name": "AutoencoderKL",
    "act_fn": "silu",
    "block_out_channels": [8, 16],
    "down_block_types": ["DownEncoderBlock2D"] * 2,
    "in_channels": 3,
    "latent_channels": 4,
    "layers_per_block": 1,
    "norm_num_groups": 4,
    "out_channels": 3,
    "scaling_factor": 0.18215,
    "up_block_types": ["UpDecoderBlock2D"] * 2,
}
FACTOR = 2  # height of an image / height of its latents


def tiny_shapes():
    """{name: shape} of the state dict of TINY."""
    shapes = {}

    def layer(name, out, *rest):
        shapes[f"{name}.weight"] = (out, *rest)
        shapes[f"{name}.bias"] = (out,)

    def resnet(name, inner, outer):
        layer(f"{name}.norm1", inner)
        layer(f"{name}.conv1", outer, inner, 3, 3)
        layer(f"{name}.norm2", outer)
        layer(f"{name}.conv2", outer, outer, 3, 3)
        if inner != outer:
            layer(f"{name}.conv_shortcut", outer, inner, 1, 1)

    def middle(name):
        resnet(f"{name}.resnets.0", 16, 16)
        layer(f"{name}.attentions.0.group_norm", 16)
        for part in ("to_q", "to_k", "to_v", "to_out.0"):
            layer(f"{name}.attentions.0.{part}", 16, 16)
        resnet(f"{name}.resnets.1", 16, 16)

    layer("encoder.conv_in", 8, 3, 3, 3)
    resnet("encoder.down_blocks.0.resnets.0", 8, 8)
    layer("encoder.down_blocks.0.downsamplers.0.conv", 8, 8, 3, 3)
    resnet("encoder.down_blocks.1.resnets.0", 8, 16)
    middle("encoder.mid_block")
    layer("encoder.conv_norm_out", 16)
    layer("encoder.conv_out", 8, 16, 3, 3)
    layer("quant_conv", 8, 8, 1, 1)
    layer("post_quant_conv", 4, 4, 1, 1)
    layer("decoder.conv_in", 16, 4, 3, 3)
    middle("decoder.mid_block")
    resnet("decoder.up_blocks.0.resnets.0", 16, 16)
    resnet("decoder.up_blocks.0.resnets.1", 16, 16)
    layer("decoder.up_blocks.0.upsamplers.0.conv", 16, 16, 3, 3)
    resnet("decoder.up_blocks.1.resnets.0", 16, 8)
    resnet("decoder.up_blocks.1.resnets.1", 8, 8)
    layer("decoder.conv_norm_out", 8)
    layer("decoder.conv_out", 3, 8, 3, 3)
    return shapes


def random_state(shapes, seed=0):
    """Random weights that keep the scale of activations; norms far from their initial values."""
    rng = np.random.default_rng(seed)

    def draw(name, shape):
        values = rng.standard_normal(shape, dtype=np.float32)
        if len(shape) > 1:
            return values / np.sqrt(np.float32(np.prod(shape[1:])))
        return 1 + 0.2 * values if "norm" in name and name.endswith("weight") else 0.2 * values

    return {name: draw(name, shape) for name, shape in shapes.items()}


def write_autoencoder(folder, seed=0):
    """Write the weights and config.json; return the path of the weights."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(TINY))
    path = folder / "diffusion_pytorch_model.safetensors"
    save_file(random_state(tiny_shapes(), seed), path)
    return path
