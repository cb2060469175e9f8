"""Rematerialisation: which results a block recomputes in its backward pass instead of storing."""

from typing import Any

import flax.linen as nn
import jax
from jax.extend.core import Primitive

# Results that are recomputed in the backward pass:
#   none         nothing
#   elementwise  everything except products with weights and convolutions
#   block        everything; only the block's input is stored
REMATS = ("none", "elementwise", "block")


def rematerialised(block: type[nn.Module], remat: str, prevent_cse: bool = True) -> type[nn.Module]:
    """Return `block` with a backward pass that stores less and recomputes more.

    Args:
        block: a class of Flax modules.
        remat: one of `REMATS`: "none", "elementwise" (recomputes all but products with weights and
            convolutions), "block" (recomputes everything from the input).
        prevent_cse: False only in the body of a scan. Elsewhere XLA would merge the recomputed
            results with the stored ones.

    Raises:
        ValueError: an unknown `remat`.
    """
    if remat == "none":
        return block
    if remat == "elementwise":
        return nn.remat(block, prevent_cse=prevent_cse, policy=_is_expensive)
    if remat == "block":
        return nn.remat(block, prevent_cse=prevent_cse)
    raise ValueError(f"remat is '{remat}'; it must be one of {', '.join(REMATS)}.")


def _is_expensive(primitive: Primitive, *args: Any, **params: Any) -> bool:
    """Return True for results to store: those of convolutions and of products with weights.

    This is a policy of `jax.checkpoint`. Products of attention are not stored: their [N, N] scores
    are large.
    """
    if primitive.name == "conv_general_dilated":
        return True
    return jax.checkpoint_policies.dots_with_no_batch_dims_saveable(primitive, *args, **params)
