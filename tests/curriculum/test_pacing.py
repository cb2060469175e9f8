"""Pacing against a plain Python loop of the paper's rule, in float32."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cdt.curriculum.pacing import fixed, patience


def reference(losses, tau, stages, smoothing, min_delta, max_stage_steps, open_all_at):
    """Return the stage after each step, computed by a Python loop."""
    stage, best, bad, smoothed, steps, trace = 1, np.inf, 0, None, 0, []
    for i, loss in enumerate(losses):
        s = np.float32(smoothing)
        smoothed = loss if smoothed is None else s * smoothed + np.float32(1 - smoothing) * loss
        steps += 1
        if smoothed < np.float32(best) - np.float32(min_delta):
            best, bad = smoothed, 0
        else:
            bad += 1
        ends = bad >= tau or (max_stage_steps is not None and steps >= max_stage_steps)
        to = min(stage + 1, stages) if ends else stage
        if open_all_at is not None and i + 1 >= open_all_at:
            to = stages
        if to > stage:
            stage, best, bad, smoothed, steps = to, np.inf, 0, None, 0
        trace.append(stage)
    return trace


def run(pacing, losses):
    def one(state, inputs):
        state = pacing.update(state, *inputs)
        return state, state

    steps = jnp.arange(len(losses), dtype=jnp.int32)
    return jax.lax.scan(one, pacing.init(), (jnp.asarray(losses), steps))[1]


OPTIONS = list(itertools.product([1, 4, 20], [5], [0.0, 0.9], [0.0, 0.01], [None, 7], [None, 40]))


def test_patience_against_the_loop_with_every_option():
    rng = np.random.default_rng(0)
    # Falling, noisy losses with plateaus, so that every branch of the rule is taken.
    traces = (np.exp(-np.arange(160) / 60) + 0.1 * rng.random((20, 160))).astype(np.float32)
    traces[:, 80:100] = traces[:, 79:80]
    stages_seen = set()
    every = jax.jit(
        lambda losses: [
            jax.vmap(functools.partial(run, patience(*options)))(losses).stage
            for options in OPTIONS
        ]
    )(traces)
    for options, found in zip(OPTIONS, jax.tree.map(np.asarray, every), strict=True):
        for losses, stages in zip(traces, found, strict=True):
            expected = reference(losses, *options)
            np.testing.assert_array_equal(stages, expected)
            stages_seen.update(expected)
    assert stages_seen == {1, 2, 3, 4, 5}


def test_patience_resets_at_a_stage_change():
    # The loss rises when a harder cluster opens. Without resetting `best` and `bad_steps`, stage 2
    # would end after tau steps although its loss falls at every step.
    losses = np.concatenate([[1.0, 1.0, 1.0, 1.0], np.linspace(9, 5, 30)]).astype(np.float32)
    states = run(patience(3, 3), losses)
    assert states.stage[3] == 2 and states.stage[-1] == 2
    assert np.isinf(states.best[3]) and states.bad_steps[3] == 0 and states.stage_steps[3] == 0


def test_last_stage_never_ends_and_counts_no_bad_steps():
    states = run(patience(1, 2), np.ones(50, np.float32))
    assert states.stage[-1] == 2
    assert states.bad_steps[-1] == 0
    assert states.stage_steps[-1] == 48  # stage 2 begins after the second step


@pytest.mark.parametrize(("per_stage", "stages"), [(1, 1), (1, 4), (5, 4)])
def test_fixed_stages(per_stage, stages):
    losses = np.random.default_rng(0).random(40).astype(np.float32)
    expected = np.minimum(1 + np.arange(1, 41) // per_stage, stages)
    np.testing.assert_array_equal(run(fixed(per_stage, stages), losses).stage, expected)
    np.testing.assert_array_equal(
        run(fixed(per_stage, stages, open_all_at=7), losses).stage,
        np.where(np.arange(1, 41) >= 7, stages, expected),
    )


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (dict(tau=0, num_stages=2), "patience tau is 0"),
        (dict(tau=5, num_stages=0), "number of stages is 0"),
        (dict(tau=5, num_stages=2, smoothing=1.0), r"lie in \[0, 1\)"),
        (dict(tau=5, num_stages=2, min_delta=-1.0), "at least 0"),
        (dict(tau=5, num_stages=2, max_stage_steps=0), "at least 1"),
    ],
)
def test_arguments_outside_their_range(arguments, words):
    with pytest.raises(ValueError, match=words):
        patience(**arguments)
    with pytest.raises(ValueError, match="steps_per_stage is 0"):
        fixed(0, 3)


# Few distinct losses, so that ties and plateaus are frequent; inf never improves.
_LOSSES = st.lists(st.sampled_from([0.25, 0.5, 0.75, 1.0, np.inf]), min_size=24, max_size=24)


@given(
    losses=_LOSSES,
    tau=st.integers(1, 6),
    stages=st.integers(1, 6),
    min_delta=st.sampled_from([0.0, 0.25]),
    max_stage_steps=st.none() | st.integers(1, 12),
    open_all_at=st.none() | st.integers(0, 30),
)
@settings(max_examples=25)
def test_any_losses_and_options_against_the_loop(losses, tau, stages, min_delta, **limits):
    losses = np.array(losses, np.float32)
    pacing = patience(tau, stages, min_delta=min_delta, **limits)
    expected = reference(losses, tau, stages, 0.0, min_delta, *limits.values())
    np.testing.assert_array_equal(run(pacing, losses).stage, expected)
