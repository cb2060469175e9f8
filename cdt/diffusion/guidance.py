"""Classifier-free guidance (Ho & Salimans 2021)."""

import jax
import jax.numpy as jnp

from cdt.diffusion.denoiser import Condition, ConditionalNetwork, Network
from cdt.diffusion.process import Process, per_example


def classifier_free_guidance(
    network: ConditionalNetwork,
    process: Process,
    condition: Condition,
    null: Condition,
    scale: float,
    interval: tuple[float, float] | None = None,
    channels: int | None = None,
) -> Network:
    """Build network(x, level) = uncond + scale (cond - uncond), both in one batch.

    Only mean channels are guided; variance channels come from the conditional output.

    Args:
      network: (x [B, ..., C], native level [B], condition [B, ...]) -> raw output
        [B, ..., C or 2C].
      condition: what to draw, such as {"label": int32[B]}.
      null: what stands for no condition, of one example, without the axis [B].
      scale: w; 1 is the conditional model, 0 the unconditional one.
      interval: closed interval [lo, hi] of u outside which w = 1 (Kynkaanniemi et al. 2024), or
        None for guidance everywhere.
      channels: how many of the C mean channels are guided, the first of them; the others are the
        conditional model's, as in DiT's own samples of latents (`forward_with_cfg` of
        facebookresearch/DiT guides 3 of 4). None: all.

    Raises:
      ValueError: if not 0 <= lo < hi <= 1.
    """
    if interval is not None and not 0 <= interval[0] < interval[1] <= 1:
        raise ValueError(
            f"the guidance interval was given as {tuple(interval)} but needs 0 <= lo < hi <= 1 in "
            "u, where 0 is clean and 1 is noise"
        )

    # The two of an example lie side by side in the batch, and thus on the device that holds it: as
    # halves they would move between devices before and after every evaluation.
    def pairs(a: jax.Array, b: jax.Array) -> jax.Array:
        return jnp.stack([a, b], axis=1).reshape(-1, *a.shape[1:])

    both_conditions = {
        name: pairs(values, jnp.broadcast_to(null[name], values.shape))
        for name, values in condition.items()
    }

    def guided(x: jax.Array, level: jax.Array) -> jax.Array:
        both = network(pairs(x, x), pairs(level, level), both_conditions).astype(jnp.float32)
        both = both.reshape(-1, 2, *both.shape[1:])
        cond, uncond = both[:, 0], both[:, 1]
        count = x.shape[-1] if channels is None else channels
        w = jnp.full(level.shape, scale, jnp.float32)
        if interval is not None:
            u = process.u(level)
            w = jnp.where((u >= interval[0]) & (u <= interval[1]), w, 1.0)
        mean, base = cond[..., :count], uncond[..., :count]
        mean = base + per_example(w, x) * (mean - base)
        return jnp.concatenate([mean, cond[..., count:]], axis=-1)

    return guided
