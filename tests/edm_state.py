"""Conversion of U-Net parameters to EDM's names, written independently of cdt.interop.edm_names."""

import numpy as np


def _block_name(name, side, halvings):
    """Convert "encoder_1_0" to "enc.8x8_block0" (for images of 16x16)."""
    kind, *numbers = name.split("_")
    if kind == "middle":
        return f"dec.{side >> halvings}x{side >> halvings}_in{numbers[0]}"
    side = side >> int(numbers[0])
    room = {"down": "enc", "encoder": "enc", "up": "dec", "decoder": "dec"}[kind]
    return f"{room}.{side}x{side}_" + (kind if len(numbers) == 1 else f"block{numbers[1]}")


def edm_state(style, params, side):
    """Return the parameters of `adm` or `ddpmpp` under EDM's names; `side` is the image size."""
    halvings = max(int(name.split("_")[1]) for name in params if name.startswith("up_")) + 1
    state = {}

    def copy(ours, theirs, order=lambda kernel: kernel, rank=4):
        for part, value in ours.items():
            value = order(np.asarray(value))
            if part == "kernel":  # HWIO -> OIHW, a dense layer as a 1x1 convolution
                if value.ndim == 2 and rank == 4:
                    value = value[None, None]
                value = value.T if value.ndim == 2 else value.transpose(3, 2, 0, 1)
            name = {"kernel": "weight", "scale": "weight", "bias": "bias"}[part]
            state[f"{theirs}.{name}"] = value.copy()

    def copy_block(ours, theirs):
        copy(ours["norm_in"], f"{theirs}.norm0")
        copy(ours["conv_in"], f"{theirs}.conv0")
        copy(ours["condition"], f"{theirs}.affine", rank=2)
        copy(ours["norm_out"], f"{theirs}.norm1")
        copy(ours["conv_out"], f"{theirs}.conv1")
        if "skip" in ours:
            copy(ours["skip"], f"{theirs}.skip")
        if "attention" in ours:
            width = ours["attention"]["out"]["bias"].size
            heads = max(1, width // 64) if style == "adm" else 1
            # The order in cdt is [q/k/v, head, channel], in EDM [head, channel, q/k/v].
            layout = np.arange(3 * width).reshape(3, heads, -1).transpose(1, 2, 0).ravel()
            copy(ours["attention"]["norm"], f"{theirs}.norm2")
            copy(ours["attention"]["qkv"], f"{theirs}.qkv", lambda value: value[..., layout])
            copy(ours["attention"]["out"], f"{theirs}.proj")

    for name, value in params.items():
        if name == "condition":
            copy(value["time_in"], "map_layer0", rank=2)
            copy(value["time_out"], "map_layer1", rank=2)
            for ours, theirs in [("label", "map_label"), ("augment_embed", "map_augment")]:
                if ours in value:
                    copy(value[ours], theirs, rank=2)
        elif name == "stem":
            copy(value, f"enc.{side}x{side}_conv")
        elif name.startswith("final"):
            part = "norm" if name == "final_norm" else "conv"
            prefix = "out" if style == "adm" else f"dec.{side}x{side}_aux"
            copy(value, f"{prefix}_{part}")
        else:
            copy_block(value, _block_name(name, side, halvings))
    return state
