"""The curriculum: a timestep sampler that opens one more cluster of u in each stage.

Source: Kim, Go, Kwon, Kim, "Denoising Task Difficulty-based Curriculum for Training Diffusion
Models", ICLR 2025, arXiv 2403.10348.
"""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from cdt.curriculum.pacing import Pacing, PacingState
from cdt.timesteps.base import Density, Draw, Feedback, State, TimestepSampler

Order = str | Sequence[int] | np.ndarray  # a name, or a permutation of 1..N; see `opening_order`


class CurriculumState(NamedTuple):
    """State of the curriculum, saved in each checkpoint.

    Attributes:
      density: state of the density.
      pacing: state of the pacing.
      stage_lengths: int32[N], steps done in each stage.
    """

    density: State
    pacing: PacingState
    stage_lengths: Array


def opening_order(order: Order, num_clusters: int, seed: int = 0) -> np.ndarray:
    """Return the cluster indices in the order in which the clusters open.

    Args:
      order: "easy_to_hard" (from C_N, the most noise, to C_1; as in the paper), "hard_to_easy",
        "random" (one permutation drawn with `seed`), or a permutation of 1..N, where 1 is C_1.
      num_clusters: N.
      seed: random seed for "random".

    Returns:
      int[N], a permutation of 0..N-1.

    Raises:
      ValueError: an unknown name, or a list that is not a permutation of 1..N.
    """
    names = {
        "easy_to_hard": lambda: np.arange(num_clusters)[::-1],
        "hard_to_easy": lambda: np.arange(num_clusters),
        "random": lambda: np.random.default_rng(seed).permutation(num_clusters),
    }
    if isinstance(order, str):
        if order not in names:
            raise ValueError(
                f"The order '{order}' is unknown; use one of {', '.join(names)}, or a permutation "
                f"of 1..{num_clusters}."
            )
        return names[order]()
    permutation = np.asarray(order)
    if sorted(permutation.tolist()) != list(range(1, num_clusters + 1)):
        raise ValueError(
            f"The order {permutation.tolist()} is not a permutation of the clusters "
            f"1..{num_clusters}; name each cluster once."
        )
    return permutation - 1


def curriculum(
    density: Density,
    edges: np.ndarray,
    pacing: Pacing,
    order: Order = "easy_to_hard",
    seed: int = 0,
) -> TimestepSampler:
    """Return the timestep sampler that draws from `density`, restricted to the open clusters.

    The restricted density is renormalised. With uniform clusters, the uniform density and the order
    "easy_to_hard", stage n draws u = 1 - n/N + (n/N) v with v ~ Uniform[0, 1). In the last stage
    the draws equal those of `independent(density)` bitwise.

    Args:
      density: density over all of u.
      edges: f32[N+1] from `clusters.edge_table`.
      pacing: a pacing of N stages.
      order: order in which the clusters open, see `opening_order`.
      seed: random seed for the order "random".

    Raises:
      ValueError: the number of stages is not N, or `order` is invalid.
    """
    num_clusters = len(edges) - 1
    if pacing.num_stages != num_clusters:
        raise ValueError(
            f"The pacing has {pacing.num_stages} stages for {num_clusters} clusters; the numbers "
            "must be equal."
        )
    opening = opening_order(order, num_clusters, seed)
    rank = np.empty(num_clusters, np.int32)
    rank[opening] = np.arange(num_clusters)
    lower = jnp.asarray(edges[:-1])
    # The largest float32 inside each cluster. In a narrow first stage float32 rounds u up to the
    # upper edge about once in two million draws; u = 1 would be t = T, or sigma = infinity.
    upper = jnp.asarray(np.nextafter(edges[1:], np.float32(0)))

    def init() -> CurriculumState:
        return CurriculumState(density.init(), pacing.init(), jnp.zeros(num_clusters, jnp.int32))

    def sample(state: CurriculumState, key: Array, n: int) -> Draw:
        v = jax.random.uniform(key, (n,), jnp.float32)
        stage = state.pacing.stage  # traced: all stages use one compiled program
        is_open = rank < stage
        cdf = density.cdf(state.density, jnp.asarray(edges))
        # Concatenate the open clusters in order of u: cluster k covers mass [before[k], after[k]).
        after = jnp.cumsum(jnp.where(is_open, jnp.diff(cdf), 0.0))
        before = jnp.concatenate([jnp.zeros(1, after.dtype), after[:-1]])
        mass = after[-1] * v
        cluster = jnp.sum(mass[:, None] >= after, axis=1)
        # If `mass` is rounded up to the total, the search ends past the last open cluster.
        last_open = jnp.max(jnp.where(is_open, jnp.arange(num_clusters), 0))
        cluster = jnp.minimum(cluster, last_open)
        u = density.icdf(state.density, cdf[cluster] + (mass - before[cluster]))
        u = jnp.clip(u, lower[cluster], upper[cluster])
        u = jnp.where(stage >= num_clusters, density.icdf(state.density, v), u)
        # The weights correct the draws to the objective, which is restricted to the same clusters
        # and renormalised too. If the objective is the density itself, the ratio is exactly 1.
        objective = density.objective_cdf(state.density, jnp.asarray(edges))
        objective_mass = jnp.sum(jnp.where(is_open, jnp.diff(objective), 0.0))
        total = jnp.sum(jnp.where(is_open, jnp.diff(cdf), 0.0))
        ratio = jnp.where(stage >= num_clusters, 1.0, total / objective_mass)
        return Draw(u, density.weight(state.density, u) * ratio)

    def update(
        state: CurriculumState, draw: Draw, feedback: Feedback, step: Array
    ) -> CurriculumState:
        return CurriculumState(
            density=density.update(state.density, draw, feedback),
            # The pacing observes the loss that is optimised.
            pacing=pacing.update(state.pacing, jnp.mean(draw.weight * feedback.loss), step),
            stage_lengths=state.stage_lengths.at[state.pacing.stage - 1].add(1),
        )

    def metrics(state: CurriculumState) -> dict[str, Array]:
        return {
            "stage": state.pacing.stage,
            "patience_used": state.pacing.bad_steps,
            "stage_lengths": state.stage_lengths,
        }

    return TimestepSampler(init, sample, update, metrics)
