"""The train step: a pure function (state, batch) -> (state, metrics), compiled once per run."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array

from cdt.curriculum import cluster_losses
from cdt.curriculum.clusters import cluster_index
from cdt.diffusion.denoiser import Condition
from cdt.diffusion.loss import ExampleLoss
from cdt.diffusion.pixels import ToX0, pixels_to_x0
from cdt.timesteps.base import Draw, Feedback, TimestepSampler
from cdt.training.optim import Ema
from cdt.training.state import BadSteps, TrainState, no_bad_steps

PyTree = Any
# "image": images [B, ...] as `ToX0` takes them; all other entries are conditioning [B, ...]
Batch = dict[str, Array]

# (x0 f32[B, H, W, C], PRNG key) -> (x0, labels f32[B, L]), labels are conditioning "augment"
Augment = Callable[[Array, Array], tuple[Array, Array]]

# x0 [B, ...], eps [B, ...], u [B], weight [B], condition
LossInputs = tuple[Array, Array, Array, Array, Condition]

TrainStep = Callable[[TrainState, Batch], tuple[TrainState, dict[str, Array]]]

# Streams of random numbers, folded into the key of the step. Do not renumber them: this would
# change the random numbers of every run.
(
    STREAM_TIMESTEPS,
    STREAM_NOISE,
    STREAM_CONDITION_DROPOUT,
    STREAM_NETWORK,
    STREAM_POSTERIOR,
    STREAM_AUGMENT,
) = range(6)


def condition_of(batch: Batch) -> Condition:
    """Return the conditioning of a batch: all entries except "image"."""
    return {name: values for name, values in batch.items() if name != "image"}


def make_init(
    init_params: Callable[[Array], PyTree],
    tx: optax.GradientTransformation,
    ema: Ema,
    timesteps: TimestepSampler,
    num_clusters: int,
    num_validated: int,
) -> Callable[[Array], TrainState]:
    """Return init(PRNG key) -> TrainState before the first step.

    Args:
      init_params: PRNG key -> parameters f32.
      tx: optimizer.
      ema: EMAs of the weights.
      timesteps: timestep sampler.
      num_clusters: number of training clusters.
      num_validated: number of validation clusters.
    """

    def init(key: Array) -> TrainState:
        params = init_params(key)
        return TrainState(
            step=jnp.int32(0),
            params=params,
            ema=ema.init(params),
            opt_state=tx.init(params),
            timesteps=timesteps.init(),
            clusters=cluster_losses.init(num_clusters, num_validated),
            bad=no_bad_steps(),
        )

    return init


class StepOptions(NamedTuple):
    """Options of a train step.

    Attributes:
      null: null condition of one example, without the axis [B]; None for no dropout of
        conditions.
      condition_dropout: probability that a condition is replaced by `null`, in [0, 1].
      accumulate: number of microbatches; must divide the batch.
      log_every: steps in a window of the loss sums per cluster.
      max_bad_steps: number of consecutive bad steps after which the state is frozen.
      to_x0: (images of the batch, PRNG key) -> x0.
      augment: (x0, PRNG key) -> (augmented x0, labels), before noise is added; None for no
        augmentation.
    """

    null: Condition | None = None
    condition_dropout: float = 0.0
    accumulate: int = 1
    log_every: int = 1
    max_bad_steps: int = 20
    to_x0: ToX0 = pixels_to_x0
    augment: Augment | None = None


def make_train_step(
    example_loss: ExampleLoss,
    tx: optax.GradientTransformation,
    ema: Ema,
    timesteps: TimestepSampler,
    edges: np.ndarray,
    seed: int,
    options: StepOptions,
) -> TrainStep:
    """Return step(state, batch) -> (state, metrics); jit it with the state donated.

    Noise levels, noise and dropped conditions are drawn for the global batch. They depend on the
    seed, the step and the example's index in the batch, not on sharding or accumulation.

    A bad step (NaN or inf in loss or gradient) changes only `step` and the counters `state.bad`.
    After `options.max_bad_steps` consecutive bad steps the state is frozen in the same way, so that
    the training loop can still save the last good state.

    Args:
      example_loss: loss of each example at given noise levels, see `ExampleLoss`.
      tx: optimizer.
      ema: EMAs of the weights.
      timesteps: timestep sampler, which draws u and learns from the losses.
      edges: f32[N+1] edges of the clusters, for the loss per cluster.
      seed: random seed of all streams.
      options: see `StepOptions`.

    Returns:
      The step. Its metrics are loss (mean of weight times loss), grad_norm (before clipping),
      cluster_loss f32[N] (mean over the current window), bad_steps, bad_steps_in_a_row,
      recent_bad_steps (`BadSteps.recent`), and those of the timestep sampler.
    """
    gradient = make_gradient(example_loss, options.accumulate)

    def step(state: TrainState, batch: Batch) -> tuple[TrainState, dict[str, Array]]:
        key = jax.random.fold_in(jax.random.key(seed), state.step)

        draw, examples = _draw_inputs(key, batch, timesteps, state.timesteps, options)

        # --- Loss and gradient ---
        network_key = jax.random.fold_in(key, STREAM_NETWORK)
        loss, feedback, grads = gradient(state.params, network_key, examples)
        # A dot product of each leaf: faster on the CPU than a norm, which stores the squares.
        grad_norm = jnp.sqrt(sum(jnp.tensordot(g, g, g.ndim) for g in jax.tree.leaves(grads)))
        finite = jnp.isfinite(loss) & jnp.isfinite(grad_norm)
        good = finite & (state.bad.in_a_row < options.max_bad_steps)

        # --- Update, if the step is good ---
        updates, opt_state = tx.update(grads, state.opt_state, state.params)
        # Select before the EMAs read the parameters, so that one pass writes them.
        params = _select(good, optax.apply_updates(state.params, updates), state.params)
        averages = _select(good, ema.update(state.ema, params, state.step), state.ema)
        opt_state = _select(good, opt_state, state.opt_state)
        learned = timesteps.update(state.timesteps, draw, feedback, state.step)
        learned = _select(good, learned, state.timesteps)
        clusters = cluster_losses.accumulate(
            state.clusters,
            cluster_index(draw.u, edges),
            feedback.loss,
            valid=good,
            restart=state.step % options.log_every == 0,
        )
        bad = _count_bad_steps(state.bad, state.step, finite, good)

        metrics = {
            "loss": loss,
            "grad_norm": grad_norm,
            "cluster_loss": cluster_losses.mean_loss(clusters),
            "bad_steps": bad.total,
            "bad_steps_in_a_row": bad.in_a_row,
            "recent_bad_steps": bad.recent,
            **timesteps.metrics(learned),
        }
        state = TrainState(
            step=state.step + 1,
            params=params,
            ema=averages,
            opt_state=opt_state,
            timesteps=learned,
            clusters=clusters,
            bad=bad,
        )
        return state, metrics

    return step


def _draw_inputs(
    key: Array,
    batch: Batch,
    timesteps: TimestepSampler,
    timesteps_state: PyTree,
    options: StepOptions,
) -> tuple[Draw, LossInputs]:
    """Draw the noise levels, noise and dropped conditions of a global batch.

    Args:
      key: PRNG key of the step.
      batch: images and conditioning, [B, ...].
      timesteps: timestep sampler.
      timesteps_state: its state.
      options: see `StepOptions`.
    """
    x0 = options.to_x0(batch["image"], jax.random.fold_in(key, STREAM_POSTERIOR))
    condition = condition_of(batch)
    if options.augment is not None:
        augment_key = jax.random.fold_in(key, STREAM_AUGMENT)
        x0, condition["augment"] = options.augment(x0, augment_key)
    draw_key = jax.random.fold_in(key, STREAM_TIMESTEPS)
    draw = timesteps.sample(timesteps_state, draw_key, len(x0))
    eps = jax.random.normal(jax.random.fold_in(key, STREAM_NOISE), x0.shape)
    if options.null is not None and options.condition_dropout > 0.0:
        drop_key = jax.random.fold_in(key, STREAM_CONDITION_DROPOUT)
        dropped = jax.random.uniform(drop_key, (len(x0),)) < options.condition_dropout
        replace = jax.vmap(jnp.where, in_axes=(0, None, 0))
        condition |= {
            name: replace(dropped, value, condition[name]) for name, value in options.null.items()
        }
    return draw, (x0, eps, draw.u, draw.weight, condition)


def make_gradient(
    example_loss: ExampleLoss, accumulate: int
) -> Callable[[PyTree, Array, LossInputs], tuple[Array, Feedback, PyTree]]:
    """Return gradient(params, PRNG key, inputs) -> (loss f32[], feedback [B], gradient).

    The loss is the mean of weight times loss over the global batch. The microbatches are computed
    one after the other.

    Args:
      example_loss: loss of each example at given noise levels, see `ExampleLoss`.
      accumulate: number of microbatches; must divide the batch.
    """

    def objective(
        params: PyTree,
        x0: Array,
        eps: Array,
        u: Array,
        weight: Array,
        condition: Condition,
        key: Array,
    ) -> tuple[Array, Feedback]:
        loss, eps_error = example_loss(params, x0, eps, u, condition, key)
        return jnp.mean(weight * loss), Feedback(loss, eps_error)

    value_and_grad = jax.value_and_grad(objective, has_aux=True)

    def whole(params: PyTree, key: Array, examples: LossInputs) -> tuple[Array, Feedback, PyTree]:
        (loss, feedback), grads = value_and_grad(params, *examples, key)
        return loss, feedback, grads

    # Microbatch j has the examples j, j + A, j + 2A, ... A contiguous shard of the batch is then a
    # contiguous shard of every microbatch, and no example moves to another device.
    def split(x: Array) -> Array:
        return jnp.moveaxis(x.reshape(-1, accumulate, *x.shape[1:]), 1, 0)

    def merge(x: Array) -> Array:
        return jnp.moveaxis(x, 0, 1).reshape(-1, *x.shape[2:])

    def accumulated(
        params: PyTree, key: Array, examples: LossInputs
    ) -> tuple[Array, Feedback, PyTree]:
        def microbatch(sums: PyTree, inputs: PyTree) -> tuple[PyTree, Feedback]:
            j, part = inputs
            loss, feedback, grads = whole(params, jax.random.fold_in(key, j), part)
            return jax.tree.map(jnp.add, sums, (loss, grads)), feedback

        zeros = (jnp.float32(0.0), jax.tree.map(jnp.zeros_like, params))
        inputs = (jnp.arange(accumulate), jax.tree.map(split, examples))
        sums, feedback = jax.lax.scan(microbatch, zeros, inputs)
        loss, grads = jax.tree.map(lambda x: x / accumulate, sums)
        return loss, jax.tree.map(merge, feedback), grads

    return whole if accumulate == 1 else accumulated


def _select(good: Array, new: PyTree, old: PyTree) -> PyTree:
    return jax.tree.map(lambda a, b: jnp.where(good, a, b), new, old)


def _count_bad_steps(bad: BadSteps, step: Array, finite: Array, good: Array) -> BadSteps:
    """Return the counters after a step.

    Args:
      bad: the counters before it.
      step: int32[], index of the step.
      finite: bool[], False if the loss or gradient has NaN or inf.
      good: bool[], True if the step is finite and the state not frozen.
    """
    newest_first = jnp.concatenate([step[None], bad.recent[:-1]])
    return BadSteps(
        in_a_row=jnp.where(good, 0, bad.in_a_row + ~finite),
        total=bad.total + ~finite,
        recent=jnp.where(finite, bad.recent, newest_first),
    )


def several_steps(
    step: TrainStep,
) -> Callable[[TrainState, list[Batch]], tuple[TrainState, dict[str, Array]]]:
    """Return steps(state, batches) -> (state, metrics of the last step), one step per batch.

    All steps are one program. Use it if a step takes less time than the host needs to start one.

    Args:
      step: a train step.
    """

    def steps(state: TrainState, batches: list[Batch]) -> tuple[TrainState, dict[str, Array]]:
        if len(batches) == 1:
            return step(state, batches[0])
        stacked = jax.tree.map(lambda *arrays: jnp.stack(arrays), *batches)
        state, metrics = jax.lax.scan(step, state, stacked)
        return state, jax.tree.map(lambda metric: metric[-1], metrics)

    return steps
