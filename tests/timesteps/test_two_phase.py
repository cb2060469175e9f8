"""Two phases: the draws equal those of the first sampler before the switch, then the second's."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cdt.timesteps.base import Feedback
from cdt.timesteps.independent import independent
from cdt.timesteps.logit_normal import logit_normal
from cdt.timesteps.second_moment import second_moment
from cdt.timesteps.two_phase import two_phase
from cdt.timesteps.uniform import uniform


def test_the_switch_happens_at_its_step_in_one_trace():
    first, then = independent(logit_normal()), independent(uniform())
    sampler = two_phase(first, then, switch_step=3)
    traces = []

    @jax.jit
    def step(state, key, i):
        traces.append(i)
        draw = sampler.sample(state, key, 64)
        return draw, sampler.update(state, draw, Feedback(jnp.ones(64), jnp.ones(64)), i)

    state = sampler.init()
    for i in range(6):
        key = jax.random.key(i)
        assert int(sampler.metrics(state)["phase"]) == (1 if i < 3 else 2)
        draw, state = step(state, key, jnp.int32(i))
        expected = (first if i < 3 else then).sample((), key, 64)
        np.testing.assert_allclose(draw.u, expected.u, rtol=1e-6)
    assert len(traces) == 1


def test_only_the_sampler_in_use_learns():
    sampler = two_phase(independent(second_moment(4)), independent(second_moment(4)), switch_step=1)
    state, feedback = sampler.init(), Feedback(jnp.ones(8), jnp.ones(8))
    for i in range(3):
        draw = sampler.sample(state, jax.random.key(i), 8)
        state = sampler.update(state, draw, feedback, jnp.int32(i))
    assert float(state.first.count.sum()) == 8
    assert float(state.then.count.sum()) == 16
    with pytest.raises(ValueError, match="at least 0"):
        two_phase(independent(uniform()), independent(uniform()), -1)
