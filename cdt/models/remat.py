"""What a block keeps of its forward pass for its backward pass."""

from typing import Any

import flax.linen as nn
import jax
from jax.extend.core import Primitive

# What is computed again in the backward pass: nothing | all but dense products and convolutions |
# everything but the block's input.
REMATS = ("none", "elementwise", "block")


def rematerialised(block: type[nn.Module], remat: str, prevent_cse: bool = True) -> type[nn.Module]:
    """`block` with a backward pass that keeps less and computes more.

    Args:
        block: a Flax module.
        remat: one of `REMATS`.
        prevent_cse: must be True but in the body of a scan: XLA would merge what is computed again
            with the originals.

    Raises:
        ValueError: an unknown name.
    """
    if remat == "none":
        return block
    if remat == "elementwise":
        return nn.remat(block, prevent_cse=prevent_cse, policy=_is_expensive)
    if remat == "block":
        return nn.remat(block, prevent_cse=prevent_cse)
    raise ValueError(f"remat is {remat!r}, which is none of {', '.join(REMATS)}.")


def _is_expensive(primitive: Primitive, *args: Any, **params: Any) -> bool:
    """A policy of `jax.checkpoint`: keep results of convolutions and of products with weights, but
    not of attention, whose [N, N] scores are large."""
    if primitive.name == "conv_general_dilated":
        return True
    return jax.checkpoint_policies.dots_with_no_batch_dims_saveable(primitive, *args, **params)
