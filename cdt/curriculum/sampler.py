"""The curriculum: a timestep sampler whose open part of u grows stage by stage.

Kim, Go, Kwon, Kim: "Denoising Task Difficulty-based Curriculum for Training Diffusion Models",
ICLR 2025, arXiv 2403.10348. The stage is a traced integer, so no stage recompiles anything.
"""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from cdt.curriculum.pacing import Pacing, PacingState
from cdt.timesteps.base import Density, Draw, Feedback, State, TimestepSampler

Order = str | Sequence[int] | np.ndarray  # a name, or a permutation of 1..N


class CurriculumState(NamedTuple):
    """Everything the curriculum remembers; checkpointed."""

    density: State
    pacing: PacingState
    stage_lengths: Array  # int32[N]: steps spent in each stage so far


def opening_order(order: Order, num_clusters: int, seed: int = 0) -> np.ndarray:
    """int[N]: 0-based cluster indices in the order in which they open.

    Args:
      order: "easy_to_hard" (the paper's: from the noisiest C_N to C_1), "hard_to_easy", "random"
        (one permutation drawn from `seed`), or a permutation of 1..N (1 is C_1, the hardest).
      num_clusters: N.
      seed: for "random".

    Raises:
      ValueError: an unknown name or not a permutation.
    """
    names = {
        "easy_to_hard": lambda: np.arange(num_clusters)[::-1],
        "hard_to_easy": lambda: np.arange(num_clusters),
        "random": lambda: np.random.default_rng(seed).permutation(num_clusters),
    }
    if isinstance(order, str):
        if order not in names:
            raise ValueError(
                f"The order '{order}' is unknown; it must be one of {', '.join(names)}, or a "
                f"permutation of 1..{num_clusters}."
            )
        return names[order]()
    permutation = np.asarray(order)
    if sorted(permutation.tolist()) != list(range(1, num_clusters + 1)):
        raise ValueError(
            f"The order {permutation.tolist()} is not a permutation of the clusters "
            f"1..{num_clusters}."
        )
    return permutation - 1


def curriculum(
    density: Density,
    edges: np.ndarray,
    pacing: Pacing,
    order: Order = "easy_to_hard",
    seed: int = 0,
) -> TimestepSampler:
    """Levels from `density` restricted to the clusters open at the current stage, renormalised.

    With uniform clusters, the uniform density and easy-to-hard order, stage n draws
    u = 1 - n/N + (n/N) v, v ~ Uniform[0, 1). The last stage is bitwise `independent(density)`.

    Args:
      density: the density over u.
      edges: f32[N+1] from `clusters.edge_table`.
      pacing: N stages.
      order: see `opening_order`.
      seed: for the random order.

    Raises:
      ValueError: the pacing has another number of stages, or `order` is wrong.
    """
    num_clusters = len(edges) - 1
    if pacing.num_stages != num_clusters:
        raise ValueError(f"{pacing.num_stages} stages do not fit {num_clusters} clusters.")
    opening = opening_order(order, num_clusters, seed)
    rank = np.empty(num_clusters, np.int32)
    rank[opening] = np.arange(num_clusters)
    lower = jnp.asarray(edges[:-1])
    # The largest float32 inside each cluster. In float32 a narrow first stage rounds u up to its
    # upper edge about once in two million draws: u = 1 would be t = T, or sigma = infinity.
    upper = jnp.asarray(np.nextafter(edges[1:], np.float32(0)))

    def init() -> CurriculumState:
        return CurriculumState(density.init(), pacing.init(), jnp.zeros(num_clusters, jnp.int32))

    def sample(state: CurriculumState, key: Array, n: int) -> Draw:
        v = jax.random.uniform(key, (n,), jnp.float32)
        stage = state.pacing.stage
        is_open = rank < stage
        cdf = density.cdf(state.density, jnp.asarray(edges))
        # The open pieces laid end to end, in u order: piece k covers mass [before[k], after[k]).
        after = jnp.cumsum(jnp.where(is_open, jnp.diff(cdf), 0.0))
        before = jnp.concatenate([jnp.zeros(1, after.dtype), after[:-1]])
        mass = after[-1] * v
        piece = jnp.sum(mass[:, None] >= after, axis=1)
        # Where the product rounds up to the total, the search runs past the last open piece.
        last_open = jnp.max(jnp.where(is_open, jnp.arange(num_clusters), 0))
        piece = jnp.minimum(piece, last_open)
        u = density.icdf(state.density, cdf[piece] + (mass - before[piece]))
        u = jnp.clip(u, lower[piece], upper[piece])
        u = jnp.where(stage >= num_clusters, density.icdf(state.density, v), u)
        # The weights correct towards the objective restricted to the same clusters, renormalised
        # as well: exactly 1 where the density is its own objective.
        objective = density.objective_cdf(state.density, jnp.asarray(edges))
        objective_mass = jnp.sum(jnp.where(is_open, jnp.diff(objective), 0.0))
        total = jnp.sum(jnp.where(is_open, jnp.diff(cdf), 0.0))
        share = jnp.where(stage >= num_clusters, 1.0, total / objective_mass)
        return Draw(u, density.weight(state.density, u) * share)

    def update(
        state: CurriculumState, draw: Draw, feedback: Feedback, step: Array
    ) -> CurriculumState:
        return CurriculumState(
            density=density.update(state.density, draw, feedback),
            # The loss that paces is the one that is optimised.
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
