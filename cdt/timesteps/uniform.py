"""The uniform density over u: ordinary training in every family."""

import jax.numpy as jnp

from cdt.timesteps.base import Density


def uniform() -> Density:
    """F(u) = u. In DDPM every timestep is equally likely, in EDM ln sigma is normal, in flow
    matching t is uniform. Has no state."""
    return Density(
        init=lambda: (),
        cdf=lambda state, u: u,
        icdf=lambda state, q: q,
        objective_cdf=lambda state, u: u,
        weight=lambda state, u: jnp.ones_like(u),
        update=lambda state, draw, feedback: state,
    )
