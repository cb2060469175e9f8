"""Names and layouts of other programs, compared with lists written by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cdt.interop.dit_names import DIFFUSERS, OFFICIAL, from_params, to_params, with_unused_classes
from cdt.models.dit import DiT
from cdt.models.layers import position_embedding

CLASSES, WIDTH, DEPTH, PATCH, CHANNELS, SIDE = 5, 8, 2, 2, 3, 4
NETWORK = DiT(PATCH, WIDTH, DEPTH, num_heads=2, out_channels=2 * CHANNELS, num_classes=CLASSES)
FORMS = pytest.mark.parametrize("names", [OFFICIAL, DIFFUSERS], ids=["official", "diffusers"])

OFFICIAL_SHAPES = {
    "pos_embed": (1, SIDE**2, WIDTH),
    "x_embedder.proj.weight": (WIDTH, CHANNELS, PATCH, PATCH),
    "x_embedder.proj.bias": (WIDTH,),
    "t_embedder.mlp.0.weight": (WIDTH, 256),
    "t_embedder.mlp.0.bias": (WIDTH,),
    "t_embedder.mlp.2.weight": (WIDTH, WIDTH),
    "t_embedder.mlp.2.bias": (WIDTH,),
    "y_embedder.embedding_table.weight": (CLASSES + 1, WIDTH),
    "final_layer.linear.weight": (PATCH**2 * 2 * CHANNELS, WIDTH),
    "final_layer.linear.bias": (PATCH**2 * 2 * CHANNELS,),
    "final_layer.adaLN_modulation.1.weight": (2 * WIDTH, WIDTH),
    "final_layer.adaLN_modulation.1.bias": (2 * WIDTH,),
} | {
    f"blocks.{block}.{layer}.{leaf}": (out, into) if leaf == "weight" else (out,)
    for block in range(DEPTH)
    for layer, out, into in [
        ("attn.qkv", 3 * WIDTH, WIDTH),
        ("attn.proj", WIDTH, WIDTH),
        ("mlp.fc1", 4 * WIDTH, WIDTH),
        ("mlp.fc2", WIDTH, 4 * WIDTH),
        ("adaLN_modulation.1", 6 * WIDTH, WIDTH),
    ]
    for leaf in ("weight", "bias")
}


def shapes():
    x, time, label = jnp.zeros((1, 8, 8, CHANNELS)), jnp.zeros(1), jnp.zeros(1, jnp.int32)
    return jax.eval_shape(NETWORK.init, jax.random.key(0), x, time, label)["params"]


def random_params():
    rng = np.random.default_rng(0)
    return jax.tree.map(lambda leaf: rng.standard_normal(leaf.shape, np.float32), shapes())


def state_of(names):
    return from_params(random_params(), names, PATCH, SIDE)


@FORMS
def test_there_and_back_changes_no_bit(names):
    params = random_params()
    state = from_params(params, names, PATCH, SIDE)
    found = to_params(state, names, shapes(), PATCH, SIDE)
    assert jax.tree.structure(found) == jax.tree.structure(params)
    jax.tree.map(np.testing.assert_array_equal, found, params)
    again = from_params(found, names, PATCH, SIDE)
    assert again.keys() == state.keys()
    for name, array in state.items():
        assert array.dtype == np.float32 and array.flags.c_contiguous
        np.testing.assert_array_equal(again[name], array)


def test_the_names_and_shapes_of_the_official_files():
    assert {name: array.shape for name, array in state_of(OFFICIAL).items()} == OFFICIAL_SHAPES


@FORMS
def test_every_layer_has_names_of_its_own(names):
    assert set(names.layers) == {
        "/".join(key.key for key in path[:-1])
        for path, _ in jax.tree_util.tree_leaves_with_path(shapes())
    }
    theirs = [name for parts in names.layers.values() for name in parts]
    assert len(theirs) == len(set(theirs))


def test_layouts():
    params, state, other = random_params(), state_of(OFFICIAL), state_of(DIFFUSERS)
    kernel, theirs = params["patch_embed"]["kernel"], state["x_embedder.proj.weight"]
    for row, column, channel in np.ndindex(PATCH, PATCH, CHANNELS):
        pixel = (row * PATCH + column) * CHANNELS + channel
        np.testing.assert_array_equal(theirs[:, channel, row, column], kernel[pixel])
    np.testing.assert_array_equal(other["pos_embed.proj.weight"], theirs)
    qkv = params["blocks"]["attention"]["qkv"]
    for block in range(DEPTH):
        for i, part in enumerate("qkv"):
            name, mine = f"transformer_blocks.{block}.attn1.to_{part}", slice(8 * i, 8 * i + 8)
            np.testing.assert_array_equal(other[f"{name}.weight"], qkv["kernel"][block].T[mine])
            np.testing.assert_array_equal(other[f"{name}.bias"], qkv["bias"][block][mine])
        embedder = f"transformer_blocks.{block}.norm1.emb.timestep_embedder.linear_2.weight"
        np.testing.assert_array_equal(other[embedder], params["time_embed"]["out"]["kernel"].T)


@pytest.mark.parametrize("side, width", [(SIDE, WIDTH), (16, 1152), (32, 384)])
def test_the_table_of_positions_is_that_of_the_official_code(side, width):
    """In its code the grid of the width comes first; each half of the features is one grid."""
    grids = np.stack(np.meshgrid(np.arange(side, dtype=np.float32), np.arange(side)))
    omega = 1.0 / 10_000 ** (np.arange(width // 4, dtype=np.float64) / (width / 4.0))
    angles = [np.outer(grid.reshape(-1), omega) for grid in grids]
    table = np.concatenate([f(a) for a in angles for f in (np.sin, np.cos)], axis=1)
    # The last bit of a frequency may differ, and angles are up to `side` radians.
    np.testing.assert_allclose(position_embedding(side, side, width), table, rtol=0, atol=1e-7)


def altered(names, name, value):
    state = state_of(names)
    if value is None:
        del state[name]
    else:
        state[name] = value
    return state


COPY = "transformer_blocks.1.norm1.emb.timestep_embedder.linear_1.bias"


@pytest.mark.parametrize(
    "names, name, value, words",
    [
        (OFFICIAL, "blocks.1.mlp.fc1.bias", None, "it has no blocks.1.mlp.fc1.bias"),
        (OFFICIAL, "blocks.2.mlp.fc1.bias", np.zeros(4), "blocks.2.mlp.fc1.bias is not a layer"),
        (OFFICIAL, "final_layer.linear.bias", np.zeros(12), r"bias is \[12\], not \[24\]"),
        (OFFICIAL, "pos_embed", np.zeros((1, SIDE**2, WIDTH)), "is not DiT's table"),
        (OFFICIAL, "pos_embed", np.full((1, SIDE**2, WIDTH), np.nan), "is not DiT's table"),
        (OFFICIAL, "pos_embed", np.zeros((1, 9, WIDTH)), r"\[1, 9, 8\], not \[1, 16, 8\]"),
        (DIFFUSERS, COPY, np.zeros(WIDTH), f"its {COPY} differs from that of block 0"),
    ],
)
def test_what_does_not_fit_is_refused(names, name, value, words):
    with pytest.raises(ValueError, match=words):
        to_params(altered(names, name, value), names, shapes(), PATCH, SIDE)


def test_other_float_types_become_float32():
    state = {name: array.astype(np.float16) for name, array in state_of(DIFFUSERS).items()}
    found = to_params(state, DIFFUSERS, shapes(), PATCH, SIDE)
    jax.tree.map(
        lambda a, b: np.testing.assert_array_equal(a, b.astype(np.float16).astype(np.float32)),
        found, random_params(),
    )  # fmt: skip


def test_unused_classes_come_and_go():
    table = random_params()["label_embed"]["table"]
    more = with_unused_classes(table, 9)
    assert more.shape == (10, WIDTH) and (more[CLASSES:] == table[CLASSES]).all()
    np.testing.assert_array_equal(more[:CLASSES], table[:CLASSES])
    for names, name in [
        (OFFICIAL, "y_embedder.embedding_table.weight"),
        (DIFFUSERS, "transformer_blocks.{}.norm1.emb.class_embedder.embedding_table.weight"),
    ]:
        state = state_of(names)
        state |= {name.format(block): more for block in range(DEPTH)}
        found = to_params(state, names, shapes(), PATCH, SIDE)["label_embed"]["table"]
        np.testing.assert_array_equal(found, table)
        for wrong in (table[:-1], table[0], np.concatenate([table, table])):
            with pytest.raises(ValueError, match="not a table of 5 classes and a null class"):
                to_params(state | {name.format(1): wrong}, names, shapes(), PATCH, SIDE)
