"""A loss weight that is learned: the uncertainty of each noise level (Karras et al. 2024, EDM2)."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from cdt.diffusion.process import Process

PyTree = Any
# (params, native level [B]) -> learned uncertainty f32[B]
LogVariance = Callable[[PyTree, jax.Array], jax.Array]

NUM_FEATURES = 128
# ln(sigma / alpha) is infinite at the ends of the flow; no loss varies further out than this.
_LOG_S_LIMIT = 10.0


class Uncertainty(NamedTuple):
    """A loss weight with parameters of its own."""

    init: Callable[[], dict[str, jax.Array]]  # () -> its parameters
    log_variance: LogVariance  # of these parameters


def uncertainty_weight(process: Process) -> Uncertainty:
    """The learned weight of a noise family: 1 everywhere before the first step."""
    return Uncertainty(init_uncertainty, make_log_variance(process))


def init_uncertainty() -> dict[str, jax.Array]:
    """Parameters {"kernel": f32[128]} of a log variance that is 0 everywhere."""
    return {"kernel": jnp.zeros(NUM_FEATURES, jnp.float32)}


def make_log_variance(process: Process) -> LogVariance:
    """Return log_variance(params, native level [B]) -> a f32[B].

    A linear map of fixed random Fourier features of ln(sigma / alpha) / 4, which for EDM is the
    network's own noise input. The squared error m then enters the loss as m exp(-a) + a, minimal
    where exp(a) is the expected m of the level: all levels pull equally hard.

    Source: Karras et al. 2024, arXiv 2312.02696, equation 14 and appendix B.2.
    """
    # Constants, not parameters: the same for every run.
    rng = np.random.default_rng(0)
    frequencies = (2 * np.pi * rng.standard_normal(NUM_FEATURES)).astype(np.float32)
    phases = (2 * np.pi * rng.random(NUM_FEATURES)).astype(np.float32)

    def log_variance(params: PyTree, level: jax.Array) -> jax.Array:
        alpha, sigma = process.alpha_sigma(level)
        log_s = jnp.clip(jnp.log(sigma / alpha), -_LOG_S_LIMIT, _LOG_S_LIMIT)
        angles = (log_s / 4)[:, None] * frequencies + phases
        features = np.sqrt(2 / NUM_FEATURES) * jnp.cos(angles)
        return features @ params["kernel"]

    return log_variance
