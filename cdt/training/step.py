"""The train step: a pure function (state, batch) -> (state, metrics), compiled once a run."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array

from cdt.curriculum import cluster_losses
from cdt.curriculum.clusters import cluster_index
from cdt.timesteps.base import Feedback, TimestepSampler
from cdt.training.optim import Ema
from cdt.training.state import BadSteps, TrainState, no_bad_steps

PyTree = Any
# image: what a `ToX0` takes, [B, ...]; the rest is the condition
Batch = dict[str, Array]
Condition = dict[str, Array]  # what the network is told of each example, such as label int32[B]

# (batch["image"], PRNG key) -> x0 f32[B, H, W, C]. The key is for images that are distributions.
ToX0 = Callable[[Array, Array], Array]

# (x0 f32[B, H, W, C], PRNG key) -> (x0, labels f32[B, L]), which the network is told as "augment".
Augment = Callable[[Array, Array], tuple[Array, Array]]

# (params, x0, eps, u, condition, dropout key or None) -> (loss[B], eps_error[B])
ExampleLoss = Callable[[PyTree, Array, Array, Array, Condition, Array | None], tuple[Array, Array]]

TrainStep = Callable[[TrainState, Batch], tuple[TrainState, dict[str, Array]]]

# Named streams of random numbers, each folded into the key of the step. They are part of a run's
# reproducibility: never renumber one.
(
    STREAM_TIMESTEPS,
    STREAM_NOISE,
    STREAM_CONDITION_DROPOUT,
    STREAM_NETWORK,
    STREAM_POSTERIOR,
    STREAM_AUGMENT,
) = range(6)


def to_float(image: Array) -> Array:
    """uint8[...] pixels -> f32[...] in [-1, 1]."""
    return image.astype(jnp.float32) / 127.5 - 1.0


def to_uint8(x0: Array) -> Array:
    """f32[...] in [-1, 1] -> the nearest pixels uint8[...]: `to_float` undone."""
    return jnp.clip(127.5 * x0 + 128.0, 0.0, 255.0).astype(jnp.uint8)


def pixels_to_x0(image: Array, key: Array) -> Array:
    """The `ToX0` of pixels, which need no key."""
    return to_float(image)


def condition_of(batch: Batch) -> Condition:
    """All that a batch holds beside the images."""
    return {name: values for name, values in batch.items() if name != "image"}


def make_init(
    init_params: Callable[[Array], PyTree],
    tx: optax.GradientTransformation,
    ema: Ema,
    timesteps: TimestepSampler,
    num_clusters: int,
    num_validated: int,
) -> Callable[[Array], TrainState]:
    """Returns init(PRNG key) -> TrainState before the first step, with statistics for clusters that
    are trained on and for those that are validated on."""

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


def make_train_step(
    example_loss: ExampleLoss,
    tx: optax.GradientTransformation,
    ema: Ema,
    timesteps: TimestepSampler,
    edges: np.ndarray,
    *,
    seed: int,
    null: Condition | None = None,
    condition_dropout: float = 0.0,
    accumulate: int = 1,
    log_every: int = 1,
    max_bad_steps: int = 1,
    to_x0: ToX0 = pixels_to_x0,
    augment: Augment | None = None,
) -> TrainStep:
    """Returns step(state, batch) -> (state, metrics), to be jitted with the state donated.

    Noise levels, noise and dropped conditions are drawn for the *global* batch, keyed by seed, step
    and the example's global index: they depend neither on sharding nor on accumulation.

    A loss or gradient that is not finite changes nothing but `step` and the counters in
    `state.bad`; after `max_bad_steps` in a row nothing changes any more, so that the last good
    state is still there when the loop looks.

    Args:
      example_loss: loss of each example at given noise levels, see `ExampleLoss`.
      tx: optimizer.
      ema: parameter averages.
      timesteps: draws u and learns from the losses.
      edges: f32[N+1] cluster edges, for the statistics.
      seed: of every random stream.
      null: the condition that stands for none, of one example, without the axis [B]; needed for
        condition_dropout > 0.
      condition_dropout: probability with which an example's condition becomes `null`.
      accumulate: number of microbatches; must divide the batch.
      log_every: window of the per-cluster sums, in steps.
      max_bad_steps: see above.
      to_x0: what the network is trained on, of the images of the batch.
      augment: what becomes of that before noise is added.

    Metrics: loss (optimised: mean of weight times loss), grad_norm (before clipping), cluster_loss
    f32[N] (mean over the window so far), bad_steps, bad_steps_in_a_row, recent_bad_steps
    (`BadSteps.recent`), and the sampler's own.
    """

    def objective(
        params: PyTree,
        x0: Array,
        eps: Array,
        u: Array,
        weight: Array,
        condition: Condition,
        key: Array,
    ) -> tuple[Array, tuple[Array, Array]]:
        loss, eps_error = example_loss(params, x0, eps, u, condition, key)
        return jnp.mean(weight * loss), (loss, eps_error)

    value_and_grad = jax.value_and_grad(objective, has_aux=True)

    def gradients(
        params: PyTree, key: Array, *examples: PyTree
    ) -> tuple[Array, tuple[Array, Array], PyTree]:
        """Mean over the global batch, one microbatch at a time."""
        if accumulate == 1:
            (loss, aux), grads = value_and_grad(params, *examples, key)
            return loss, aux, grads

        # Microbatch j holds the examples j, j + A, j + 2A, ...: a contiguous shard of the batch
        # gives a contiguous shard of every microbatch, so no example changes device.
        def split(x: Array) -> Array:
            return jnp.moveaxis(x.reshape(-1, accumulate, *x.shape[1:]), 1, 0)

        def merge(x: Array) -> Array:
            return jnp.moveaxis(x, 0, 1).reshape(-1, *x.shape[2:])

        def microbatch(carry: PyTree, inputs: PyTree) -> tuple[PyTree, PyTree]:
            j, examples = inputs
            (loss, aux), grads = value_and_grad(params, *examples, jax.random.fold_in(key, j))
            return jax.tree.map(jnp.add, carry, (loss, grads)), aux

        zeros = (jnp.float32(0.0), jax.tree.map(jnp.zeros_like, params))
        inputs = (jnp.arange(accumulate), jax.tree.map(split, examples))
        (loss, grads), aux = jax.lax.scan(microbatch, zeros, inputs)
        loss, grads = jax.tree.map(lambda x: x / accumulate, (loss, grads))
        return loss, jax.tree.map(merge, aux), grads

    def step(state: TrainState, batch: Batch) -> tuple[TrainState, dict[str, Array]]:
        key = jax.random.fold_in(jax.random.key(seed), state.step)
        x0 = to_x0(batch["image"], jax.random.fold_in(key, STREAM_POSTERIOR))
        condition = condition_of(batch)
        n = len(x0)

        if augment is not None:
            x0, condition["augment"] = augment(x0, jax.random.fold_in(key, STREAM_AUGMENT))

        draw = timesteps.sample(state.timesteps, jax.random.fold_in(key, STREAM_TIMESTEPS), n)
        eps = jax.random.normal(jax.random.fold_in(key, STREAM_NOISE), x0.shape)
        if null is not None and condition_dropout > 0.0:
            drop_key = jax.random.fold_in(key, STREAM_CONDITION_DROPOUT)
            dropped = jax.random.uniform(drop_key, (n,)) < condition_dropout
            replace = jax.vmap(jnp.where, in_axes=(0, None, 0))
            condition |= {
                name: replace(dropped, value, condition[name]) for name, value in null.items()
            }

        loss, (losses, eps_error), grads = gradients(
            state.params,
            jax.random.fold_in(key, STREAM_NETWORK),
            x0, eps, draw.u, draw.weight, condition,
        )  # fmt: skip
        # A dot product of each leaf: on the CPU faster than a norm, which writes the squares.
        grad_norm = jnp.sqrt(sum(jnp.tensordot(g, g, g.ndim) for g in jax.tree.leaves(grads)))
        finite = jnp.isfinite(loss) & jnp.isfinite(grad_norm)
        good = finite & (state.bad.in_a_row < max_bad_steps)

        def select(new: PyTree, old: PyTree) -> PyTree:
            return jax.tree.map(lambda a, b: jnp.where(good, a, b), new, old)

        updates, opt_state = tx.update(grads, state.opt_state, state.params)
        # Selected before the averages read them, so that one pass writes the parameters.
        params = select(optax.apply_updates(state.params, updates), state.params)
        averages = select(ema.update(state.ema, params, state.step), state.ema)
        opt_state = select(opt_state, state.opt_state)
        feedback = Feedback(losses, eps_error)
        timesteps_state = select(
            timesteps.update(state.timesteps, draw, feedback, state.step), state.timesteps
        )
        clusters = cluster_losses.accumulate(
            state.clusters,
            cluster_index(draw.u, edges),
            losses,
            valid=good,
            restart=state.step % log_every == 0,
        )
        bad = BadSteps(
            in_a_row=jnp.where(good, 0, state.bad.in_a_row + ~finite),
            total=state.bad.total + ~finite,
            recent=jnp.where(finite, state.bad.recent, _pushed(state.step, state.bad.recent)),
        )
        metrics = {
            "loss": loss,
            "grad_norm": grad_norm,
            "cluster_loss": cluster_losses.mean_loss(clusters),
            "bad_steps": bad.total,
            "bad_steps_in_a_row": bad.in_a_row,
            "recent_bad_steps": bad.recent,
            **timesteps.metrics(timesteps_state),
        }
        state = TrainState(
            step=state.step + 1,
            params=params,
            ema=averages,
            opt_state=opt_state,
            timesteps=timesteps_state,
            clusters=clusters,
            bad=bad,
        )
        return state, metrics

    return step


def _pushed(value: Array, ring: Array) -> Array:
    """The ring with the value first and its last one dropped."""
    return jnp.concatenate([value[None], ring[:-1]])


def several_steps(
    step: TrainStep,
) -> Callable[[TrainState, list[Batch]], tuple[TrainState, dict[str, Array]]]:
    """Returns steps(state, batches) -> (state, metrics of the last step): one step a batch, in one
    program. Where a step is shorter than what the host needs to start it, that saves the rest."""

    def steps(state: TrainState, batches: list[Batch]) -> tuple[TrainState, dict[str, Array]]:
        if len(batches) == 1:
            return step(state, batches[0])
        stacked = jax.tree.map(lambda *arrays: jnp.stack(arrays), *batches)
        state, metrics = jax.lax.scan(step, state, stacked)
        return state, jax.tree.map(lambda metric: metric[-1], metrics)

    return steps
