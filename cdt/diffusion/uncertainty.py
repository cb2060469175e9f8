"""A learned loss weight: the uncertainty of each noise level (Karras et al. 2024, EDM2)."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from cdt.diffusion.process import Process

PyTree = Any
# (params, native level [B]) -> learned log variance f32[B]
LogVariance = Callable[[PyTree, jax.Array], jax.Array]

NUM_FEATURES = 128
# Limit of |ln(sigma / alpha)|, which is infinite at both ends of flow matching. Beyond it the loss
# is practically constant.
_LOG_S_LIMIT = 10.0


class Uncertainty(NamedTuple):
    """A loss weight with trained parameters.

    Attributes:
      init: () -> initial parameters.
      log_variance: (parameters, native level [B]) -> learned log variance f32[B].
    """

    init: Callable[[], dict[str, jax.Array]]
    log_variance: LogVariance


def uncertainty_weight(process: Process) -> Uncertainty:
    """Return the learned loss weight of a noise family; it is 1 at every level before training."""
    return Uncertainty(init_uncertainty, make_log_variance(process))


def init_uncertainty() -> dict[str, jax.Array]:
    """Return the initial parameters {"kernel": f32[128]}, all 0: the log variance is 0."""
    return {"kernel": jnp.zeros(NUM_FEATURES, jnp.float32)}


def make_log_variance(process: Process) -> LogVariance:
    """Return log_variance(params, native level [B]) -> a f32[B].

    a is a linear function of random Fourier features of ln(sigma / alpha) / 4, which is EDM's time
    input. With the squared error m of an example, the loss is m exp(-a) + a. It is minimal if
    exp(a) is the expected m at this level; all levels then have the same weighted error.

    Source: Karras et al. 2024, arXiv 2312.02696, equation 14 and appendix B.2.
    """
    # Constants, the same for every run.
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
