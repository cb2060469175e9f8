"""The DiT, compared with an independent implementation, diffusers' DiTTransformer2DModel."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from diffusers import DiTTransformer2DModel

from cdt.models.dit import DiT

CLASSES, WIDTH, DEPTH, HEADS, PATCH, CHANNELS, OUT_CHANNELS, SIDE = 10, 48, 3, 4, 2, 3, 6, 8


def random_params(model):
    """Random kernels and biases of the usual scale; none are zero as after `init`."""
    x, time, label = jnp.zeros((1, SIDE, SIDE, CHANNELS)), jnp.zeros(1), jnp.zeros(1, jnp.int32)
    shapes = jax.eval_shape(model.init, jax.random.key(0), x, time, label)["params"]
    rng = np.random.default_rng(0)

    def draw(path, leaf):
        fan_in = leaf.shape[-2] if path[-1].key == "kernel" else 4
        return rng.standard_normal(leaf.shape, dtype=np.float32) / np.sqrt(fan_in)

    return jax.tree_util.tree_map_with_path(draw, shapes)


def diffusers_dit(params):
    """The same network in diffusers, with our weights copied in."""
    peer = DiTTransformer2DModel(
        num_attention_heads=HEADS, attention_head_dim=WIDTH // HEADS, num_layers=DEPTH,
        in_channels=CHANNELS, out_channels=OUT_CHANNELS, sample_size=SIDE, patch_size=PATCH,
        num_embeds_ada_norm=CLASSES, norm_eps=1e-6,
    )  # fmt: skip
    state = {}

    def copy(ours, theirs):
        state[f"{theirs}.weight"] = torch.from_numpy(ours["kernel"].T.copy())
        state[f"{theirs}.bias"] = torch.from_numpy(ours["bias"].copy())

    # In diffusers the patch kernel is that of a convolution [D, C, p, p], in cdt [p p C, D].
    kernel = params["patch_embed"]["kernel"].reshape(PATCH, PATCH, CHANNELS, WIDTH)
    state["pos_embed.proj.weight"] = torch.from_numpy(kernel.transpose(3, 2, 0, 1).copy())
    state["pos_embed.proj.bias"] = torch.from_numpy(params["patch_embed"]["bias"].copy())
    copy(params["final_adaln"], "proj_out_1")
    copy(params["final"], "proj_out_2")
    for i in range(DEPTH):
        block = jax.tree.map(lambda p, i=i: p[i], params["blocks"])
        name = f"transformer_blocks.{i}"
        # diffusers repeats the embeddings in every block; cdt has them once.
        copy(params["time_embed"]["in"], f"{name}.norm1.emb.timestep_embedder.linear_1")
        copy(params["time_embed"]["out"], f"{name}.norm1.emb.timestep_embedder.linear_2")
        table = torch.from_numpy(params["label_embed"]["table"].copy())
        state[f"{name}.norm1.emb.class_embedder.embedding_table.weight"] = table
        copy(block["adaln"], f"{name}.norm1.linear")
        for j, part in enumerate(["to_q", "to_k", "to_v"]):
            one = jax.tree.map(lambda p, j=j: np.split(p, 3, axis=-1)[j], block["attention"]["qkv"])
            copy(one, f"{name}.attn1.{part}")
        copy(block["attention"]["out"], f"{name}.attn1.to_out.0")
        copy(block["mlp"]["in"], f"{name}.ff.net.0.proj")
        copy(block["mlp"]["out"], f"{name}.ff.net.2")
    peer.load_state_dict(state, strict=True)
    for block in peer.transformer_blocks:
        # Its frequencies are 10000^(-i / 127); those of DiT and cdt are 10000^(-i / 128).
        block.norm1.emb.time_proj.downscale_freq_shift = 0
    return peer.eval()


@pytest.mark.parametrize("unroll", [False, True])
def test_forward_and_input_gradient(unroll):
    model = DiT(
        PATCH, WIDTH, DEPTH, HEADS, OUT_CHANNELS, num_classes=CLASSES, unroll=unroll
    )  # fmt: skip
    params = random_params(model)
    peer = diffusers_dit(params)
    rng = np.random.default_rng(1)
    x = rng.standard_normal((5, SIDE, SIDE, CHANNELS), dtype=np.float32)
    time = np.array([0.0, 0.25, 3.0, 500.0, 999.0], np.float32)
    label = np.array([0, 1, 5, 9, CLASSES], np.int32)

    def network(x):
        return model.apply({"params": params}, x, time, label)

    ours, pullback = jax.vjp(network, jnp.asarray(x))
    cotangent = rng.standard_normal(ours.shape, dtype=np.float32)
    (ours_gradient,) = pullback(jnp.asarray(cotangent))

    def to_nchw(a):
        return torch.from_numpy(a.transpose(0, 3, 1, 2).copy())

    peer_x = to_nchw(x).requires_grad_()
    theirs = peer(peer_x, torch.from_numpy(time), torch.from_numpy(label).long()).sample
    theirs.backward(to_nchw(cotangent))
    for a, b in [(ours, theirs), (ours_gradient, peer_x.grad)]:
        b = b.detach().numpy().transpose(0, 2, 3, 1)
        # Relative to the norm: both sum in float32, in different orders. The angles of time 999
        # have errors of 6e-5, but both round them in the same way.
        assert np.linalg.norm(a - b) < 1e-5 * np.linalg.norm(b)
        assert np.std(b) > 0.1
