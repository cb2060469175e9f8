"""The train step of the DiT in hackable-diffusion, the JAX library most similar to cdt.

It is the step that users of the library run: kauldron's `Trainer.trainstep`, jitted with a donated
state, with `kdiff.core.Diffusion`, built as in the library's `kdiff/configs/mnist_unet.py`. It uses
the block of the original DiT, and trains like our cases: uniform noise levels, flow matching, AdamW
and one EMA. Width, depth, heads, patches and MLP are the same as ours. Differences:

- queries, keys and values are three products, not one; shift, scale and gate of a block are four
  products, not one;
- positions are learned; the time frequencies differ; the epsilon of the normalization is 1e-5, not
  1e-6;
- a dropped label embeds to zero, not to a null class;
- images are float32 in [-1, 1], not uint8;
- the decay of the EMA in step n is (1 + n) / (10 + n), up to ours;
- the step does less: it returns no loss (the library's loop computes one every 100 steps), no
  gradient norm and no sums per cluster, and does not check for NaN or inf.
"""

from collections.abc import Callable

import jax
import optax
from hackable_diffusion import hd
from hackable_diffusion.kdiff import core
from hackable_diffusion.lib.architecture import dit, dit_blocks
from jax.experimental import checkify
from kauldron import kd
from ml_collections import ConfigDict

from benchmarks.cases import first_batch
from benchmarks.flops import count_flops
from cdt.models.conditioning import FREQUENCY_DIM


def diffusion(config: ConfigDict) -> core.Diffusion:
    """Return the diffusion model of a config: network, noise levels, noise and target."""
    c, size = config.model, config.data.image_size
    patch = (c.patch_size, c.patch_size)
    backbone = dit.DiT(
        num_blocks=c.depth,
        block=dit_blocks.DiTBlockAdaLNZero(
            hidden_size=c.hidden_size, num_heads=c.num_heads, ffn_type="dense", ffn_use_bias=True
        ),
        encoder=dit_blocks.Patchify(patch_size=patch, embedding_dim=c.hidden_size),
        decoder=dit_blocks.DePatchify(
            patch_size=patch, output_shape=(size, size, config.data.channels)
        ),
        absolute_posenc=dit_blocks.PositionalEmbedding(),
    )
    encoder = hd.architecture.ConditioningEncoder(
        time_embedder=hd.architecture.SinusoidalTimeEmbedder(
            activation="silu", embedding_dim=FREQUENCY_DIM, num_features=c.hidden_size
        ),
        conditioning_embedders={
            "label": hd.architecture.LabelEmbedder(
                num_classes=c.num_classes, num_features=c.hidden_size
            )
        },
        merge_embeddings_fn=hd.architecture.SumEmbeddings(),
        conditioning_rules={"label": "adaptive_norm", "time": "adaptive_norm"},
        conditioning_dropout_rate=config.train.condition_dropout,
    )
    return core.Diffusion(
        x0="batch.image",
        cond={"label": "batch.label"},
        corruption_process=hd.corruption.GaussianProcess(schedule=hd.corruption.RFSchedule()),
        time_sampler=hd.training.time_sampling.UniformTimeSampler(
            span=hd.jax_helpers.SafeSpan(safety_epsilon=1e-4)
        ),
        network=hd.diffusion_network.DiffusionNetwork(
            prediction_type="velocity", backbone_network=backbone, conditioning_encoder=encoder
        ),
    )


def forward_flops(config: ConfigDict) -> int:
    """Return the FLOPs of evaluating the network on one image, like `flops.forward_flops`."""
    network, size = diffusion(config).network, config.data.image_size
    x = jax.ShapeDtypeStruct((1, size, size, config.data.channels), "float32")
    time, label = jax.ShapeDtypeStruct((1,), "float32"), jax.ShapeDtypeStruct((1,), "int32")
    variables = jax.eval_shape(
        lambda key: network.initialize_variables(x.shape, {"label": (1,)}, key), jax.random.key(0)
    )

    def evaluate(variables, x, time, label):
        condition = {"label": label}
        return network.apply(variables, time=time, xt=x, conditioning=condition, is_training=False)

    return count_flops(evaluate, variables, x, time, label)


def hackable_step(config: ConfigDict) -> tuple[Callable[[], None], int]:
    """Return (function that runs one train step and waits for it, number of parameters).

    Args:
      config: of a DiT with flow matching, from `case_config`.
    """
    batch, _ = first_batch(config)
    images = batch["image"].astype("float32") / 127.5 - 1
    optim = config.optim
    adamw = optax.adamw(optim.lr, optim.b1, optim.b2, optim.eps, weight_decay=optim.weight_decay)
    trainer = kd.train.Trainer(
        train_ds=kd.data.InMemoryPipeline(
            loader=lambda: {"image": images, "label": batch["label"]}, batch_size=len(images)
        ),
        model=diffusion(config),
        train_losses={
            "diffusion": core.KauldronLossWrapper(
                loss=hd.training.NoWeightGaussianLoss(prediction_type="velocity")
            )
        },
        optimizer=kd.optim.named_chain(
            adamw=adamw, ema=kd.optim.ema_params(decay=config.ema.decays[0])
        ),
        checkify_error_categories=checkify.user_checks,
    )
    state = trainer.init_state()
    on_device = jax.device_put(next(iter(trainer.train_ds)))
    params = sum(p.size for p in jax.tree.leaves(state.params))

    def run():
        nonlocal state
        state, aux = trainer.trainstep.step(
            state, on_device, checkify_error_categories=trainer.checkify_error_categories
        )
        aux.error.throw()  # as in the library's loop; waits for the step
        jax.block_until_ready(state)

    return run, params
