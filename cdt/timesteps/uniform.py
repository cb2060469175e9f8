"""The uniform density over u: ordinary training in every family."""

import jax.numpy as jnp

from cdt.timesteps.base import Density


def uniform() -> Density:
    """Return the uniform density, F(u) = u; it has no state.

    Every timestep of DDPM is equally likely, ln sigma of EDM is normal, t of flow matching is
    uniform.
    """
    return Density(
        init=lambda: (),
        cdf=lambda state, u: u,
        icdf=lambda state, q: q,
        objective_cdf=lambda state, u: u,
        weight=lambda state, u: jnp.ones_like(u),
        update=lambda state, draw, feedback: state,
    )
