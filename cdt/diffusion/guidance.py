"""Classifier-free guidance (Ho & Salimans 2022, arXiv 2207.12598)."""

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
    """Return the guided network (x, level) -> uncond + scale (cond - uncond).

    Both outputs are computed in one batch of 2B examples. Variance channels are not guided: they
    come from the conditional output.

    Args:
      network: (x [B, ..., C], native level [B], condition [B, ...]) -> raw output
        [B, ..., C or 2C].
      process: noise family.
      condition: conditioning of the samples, such as {"label": int32[B]}.
      null: the null condition of one example, without the axis [B].
      scale: guidance scale w; 1 is the conditional model, 0 the unconditional model.
      interval: closed interval [lo, hi] of u; outside it w = 1 (Kynkaanniemi et al. 2024). None
        guides at every level.
      channels: number of mean channels that are guided, counted from the first; the others come
        from the conditional output. DiT samples latents with 3 of 4 (`forward_with_cfg` in
        facebookresearch/DiT). None guides all.

    Raises:
      ValueError: unless 0 <= lo < hi <= 1.
    """
    if interval is not None and not 0 <= interval[0] < interval[1] <= 1:
        raise ValueError(
            f"The guidance interval is {tuple(interval)}; it must satisfy 0 <= low < high <= 1, in "
            "u, where 0 is clean and 1 is pure noise."
        )

    # Interleave the two copies of the batch, so that both evaluations of an example run on the
    # device that holds it. Concatenated, they would move between devices at every evaluation.
    def interleave(a: jax.Array, b: jax.Array) -> jax.Array:
        return jnp.stack([a, b], axis=1).reshape(-1, *a.shape[1:])

    both_conditions = {
        name: interleave(values, jnp.broadcast_to(null[name], values.shape))
        for name, values in condition.items()
    }

    def guided(x: jax.Array, level: jax.Array) -> jax.Array:
        both = network(interleave(x, x), interleave(level, level), both_conditions).astype(
            jnp.float32
        )
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
