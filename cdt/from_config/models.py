"""Config -> noise family, prediction and network; the losses of a model."""

from collections.abc import Callable
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.sharding import Mesh
from ml_collections import ConfigDict

from cdt.devices.sharding import split_batch
from cdt.diffusion import loss_weights, schedules
from cdt.diffusion import prediction as predictions
from cdt.diffusion import process as processes
from cdt.diffusion.denoiser import Condition, ConditionalNetwork
from cdt.diffusion.loss import Apply, ExampleLoss, make_example_loss, make_loss
from cdt.diffusion.pixels import ToX0
from cdt.diffusion.prediction import Prediction
from cdt.diffusion.process import Process, per_example
from cdt.diffusion.uncertainty import LogVariance, init_uncertainty, make_log_variance
from cdt.errors import UserError
from cdt.from_config.choices import at_least, choose
from cdt.from_config.datasets import text_states
from cdt.from_config.latent_space import to_x0
from cdt.models.dit import DiT, named_dit
from cdt.models.layers import unconstrained
from cdt.models.remat import REMATS
from cdt.models.routing import Routing, task_routing
from cdt.models.unet import ADM_SIZES, DDPMPP_SIZES, UNet, adm, ddpmpp
from cdt.training.augment import NUM_LABELS

PyTree = Any

SCHEDULES = {"linear": schedules.linear_betas, "cosine": schedules.cosine_betas}
PATHS = {"linear": schedules.linear_path, "gvp": schedules.gvp_path}
PROCESSES = {
    "flow": lambda c: processes.flow(choose("process.path", c.path, PATHS)()),
    "ddpm": lambda c: processes.ddpm(
        choose("process.schedule", c.schedule, SCHEDULES)(c.num_timesteps)
    ),
    "edm": lambda c: processes.edm(c.p_mean, c.p_std),
}
DDPM_PREDICTIONS = {
    "eps": lambda process: predictions.eps_prediction(),
    "x0": lambda process: predictions.x0_prediction(),
    "v": predictions.v_prediction,
}
DTYPES = {"float32": jnp.float32, "bfloat16": jnp.bfloat16}
MODELS = {
    "dit": lambda config, options: _dit(config, options),
    "adm": lambda config, options: adm(**_unet_fields(config, ADM_SIZES), **options),
    "ddpmpp": lambda config, options: ddpmpp(**_unet_fields(config, DDPMPP_SIZES), **options),
}
WEIGHTS = {
    "none": lambda c, process, prediction: loss_weights.no_weight(),
    "min_snr": lambda c, process, prediction: loss_weights.min_snr_weight(
        process, prediction, c.min_snr_gamma
    ),
    "p2": lambda c, process, prediction: loss_weights.p2_weight(
        process, prediction, c.p2_k, c.p2_gamma
    ),
    "uncertainty": lambda c, process, prediction: loss_weights.no_weight(),
}


class Model(NamedTuple):
    """A network together with the process it denoises."""

    process: Process
    prediction: Prediction
    learn_variance: bool
    init: Callable[[Array], PyTree]  # PRNG key -> params f32
    apply: Apply  # (params, x, time, condition, key) -> raw output
    image_shape: tuple[int, int, int]
    num_classes: int  # 0: not conditioned on a class
    null: Condition  # what stands for no condition, without the axis [B]; empty: unconditional
    log_variance: LogVariance | None  # the loss's learned uncertainty, or None
    to_x0: ToX0  # images of a batch -> what the network is trained on


def model(config: ConfigDict, mesh: Mesh | None = None) -> Model:
    """Builds the process, its prediction and the network.

    Args:
      config: the run's.
      mesh: over whose devices the examples of a batch are split inside the network; None leaves
        their places to the compiler.
    """
    c = config.process
    at_least(config, "process.num_timesteps", 1)
    process = choose("process.name", c.name, PROCESSES)(c)
    if c.name == "ddpm":
        prediction = choose("process.prediction", c.prediction, DDPM_PREDICTIONS)(process)
    elif c.name == "edm":
        prediction = predictions.edm_prediction(c.sigma_data)
    else:
        prediction = predictions.velocity_prediction(process)
    if c.learn_variance and c.name != "ddpm":
        raise UserError(
            f"config.process.learn_variance needs the family 'ddpm', not '{c.name}'; set it to "
            "False."
        )

    image_shape = (config.data.image_size, config.data.image_size, config.data.channels)
    num_classes = config.model.num_classes
    uncertain = config.loss.weight == "uncertainty"

    null = {"label": jnp.int32(num_classes)} if num_classes else {}
    text = text_states(config, config.data.train_split)
    if text:
        null |= {name: jnp.asarray(value) for name, value in text.null.items()}
    network = _network(
        config,
        routing=_routing(config, process),
        text_width=text.manifest.width if text else None,
        mesh=mesh,
    )

    share = config.train.augment
    if not 0.0 <= share <= 1.0 or (share and config.data.name == "latents"):
        raise UserError(
            f"config.train.augment is {share}; it must lie in [0, 1], and be 0 where "
            "config.data.name is 'latents', which cannot be turned."
        )

    def init(key: Array) -> PyTree:
        x = jnp.zeros((1, *image_shape))
        one: dict[str, Any] = {name: jnp.asarray(value)[None] for name, value in null.items()}
        if share:
            one["augment"] = jnp.zeros((1, NUM_LABELS))
        params = network.init(key, x, jnp.zeros(1), **one)["params"]
        return params | ({"loss_uncertainty": init_uncertainty()} if uncertain else {})

    def apply(
        params: PyTree, x: Array, time: Array, condition: Condition, key: Array | None
    ) -> Array:
        rngs = None if key is None else {"dropout": key}
        # Where images are as they were, as in validation and samples, nothing is told of them.
        told = [*null, "augment"] if "augment" in condition else null
        used: dict[str, Any] = {name: condition[name] for name in told}
        return cast(Array, network.apply({"params": params}, x, time, **used, rngs=rngs))

    def log_variance(params: PyTree, level: Array) -> Array:
        return make_log_variance(process)(params["loss_uncertainty"], level)

    return Model(
        process, prediction, c.learn_variance, init, apply, image_shape,
        num_classes, null, log_variance if uncertain else None, to_x0(config),
    )  # fmt: skip


def network_at(model: Model, params: PyTree) -> ConditionalNetwork:
    """Returns network(x [B, H, W, C], native level [B], condition) -> raw output [B, H, W, C or 2C]
    f32, without dropout: what samplers and exports evaluate."""

    def network(x: Array, level: Array, condition: Condition) -> Array:
        scaled = per_example(model.prediction.c_in(level), x) * x
        return model.apply(params, scaled, model.process.time_input(level), condition, None)

    return network


def dit(config: ConfigDict) -> DiT:
    """The DiT of a class-conditional run, for who needs its sizes.

    Raises:
      UserError: the run's network is another.
    """
    if config.model.name != "dit" or not config.model.num_classes or config.data.text_encoder:
        kind = "reads text" if config.data.text_encoder else (
            f"has config.model.name '{config.model.name}' and {config.model.num_classes} classes"
        )  # fmt: skip
        raise UserError(
            f"The run {kind}; other programs know a DiT that is told a class and nothing else: "
            "give the config of such a run (export_safetensors takes any)."
        )
    if config.model.routing:
        raise UserError(
            "config.model.routing is True, which no other program knows; use export_safetensors."
        )
    network = _network(config, routing=None, text_width=None, mesh=None)
    assert isinstance(network, DiT)
    return network


def attention_heads(config: ConfigDict) -> int | None:
    """Of a DiT, whose parameters do not show it; None of another network."""
    return _dit(config, {"out_channels": 1}).num_heads if config.model.name == "dit" else None


def _network(
    config: ConfigDict,
    routing: Routing | None,
    text_width: int | None,
    mesh: Mesh | None,
) -> DiT | UNet:
    c = config.model
    constructor = choose("model.name", c.name, MODELS)
    at_least(config, "model.num_classes", 0)
    options = dict(
        num_classes=c.num_classes or None,
        out_channels=config.data.channels * (2 if config.process.learn_variance else 1),
        dtype=choose("model.dtype", c.dtype, DTYPES),
        remat=choose("model.remat", c.remat, REMATS),
        constrain=unconstrained if mesh is None else split_batch(mesh),
    )
    if c.name == "dit":
        whole = mesh is None or mesh.shape["fsdp"] == 1
        options["separate_qkv"] = whole and jax.default_backend() == "gpu"
        options["routing"] = routing
    if text_width is None:
        return constructor(config, options)
    if c.name != "dit":
        raise UserError(
            f"config.model.name is '{c.name}', which reads no text; leave config.data.text_encoder "
            "empty, or use 'dit'."
        )
    return _dit(config, options | {"text_width": text_width})


def _routing(config: ConfigDict, process: Process) -> Routing | None:
    """Which channels each noise level passes through the blocks; None: all."""
    c = config.model
    if not c.routing:
        return None
    if c.name != "dit":
        raise UserError(
            f"config.model.routing is True with config.model.name '{c.name}', which has no task "
            "routing; set it to False, or use 'dit'."
        )
    return task_routing(process.position, c.routing_alpha, c.routing_beta)


def _dit(config: ConfigDict, options: dict[str, Any]) -> DiT:
    c = config.model
    for key in ("model.patch_size", "model.hidden_size", "model.depth", "model.num_heads"):
        at_least(config, key, 1)
    if c.size:
        return named_dit(c.size, unroll=c.unroll, **options)
    return DiT(
        patch_size=c.patch_size,
        hidden_size=c.hidden_size,
        depth=c.depth,
        num_heads=c.num_heads,
        unroll=c.unroll,
        **options,
    )


def _unet_fields(config: ConfigDict, sizes: dict[str, dict[str, Any]]) -> dict[str, Any]:
    c = config.model
    if c.size:
        return choose("model.size", c.size, sizes)
    at_least(config, "model.channels", 4)
    at_least(config, "model.num_blocks", 1)
    multipliers = tuple(c.channel_mult)
    if not multipliers or not all(isinstance(m, int) and m >= 1 for m in multipliers):
        raise UserError(
            f"config.model.channel_mult is {multipliers}; it must be whole numbers of at least 1, "
            "one a level, such as (1, 2, 2)."
        )
    if not 0.0 <= c.dropout < 1.0:
        raise UserError(f"config.model.dropout is {c.dropout}; it must lie in [0, 1).")
    return dict(
        channels=c.channels,
        channel_mult=multipliers,
        num_blocks=c.num_blocks,
        attention_resolutions=tuple(c.attention_resolutions),
        dropout=c.dropout,
    )


def example_loss(model: Model) -> ExampleLoss:
    """The unweighted loss, which validation measures whatever training optimises."""
    loss = make_loss(model.process, model.prediction, model.learn_variance)
    return make_example_loss(model.apply, model.process, model.prediction, loss)


def training_loss(config: ConfigDict, model: Model) -> ExampleLoss:
    """The loss that is optimised: weighted as `config.loss` says."""
    weight = loss_weight(config, model.process, model.prediction)
    loss = make_loss(model.process, model.prediction, model.learn_variance, weight)
    return make_example_loss(model.apply, model.process, model.prediction, loss, model.log_variance)


def loss_weight(
    config: ConfigDict, process: Process, prediction: Prediction
) -> loss_weights.Weight:
    """The weight of the squared error at each level; 1 where it is learned.

    SpeeD is a way to draw timesteps and a weight at once: its own multiplies the chosen one.
    """
    chosen = choose("loss.weight", config.loss.weight, WEIGHTS)(config.loss, process, prediction)
    c = config.timesteps
    if c.name != "speed":
        return chosen
    own = loss_weights.speed_weight(
        speed_noise_variances(config, process), c.speed_tau, c.speed_lambda
    )
    return lambda level: own(level) * chosen(level)


def speed_noise_variances(config: ConfigDict, process: Process) -> np.ndarray:
    """What both halves of SpeeD are made from; refuses what it cannot be combined with."""
    if process.name != "ddpm":
        raise UserError(
            f"config.timesteps.name 'speed' needs the family 'ddpm', not '{process.name}'; change "
            "config.process.name, or draw timesteps otherwise."
        )
    if config.loss.weight == "uncertainty":
        raise UserError(
            "config.timesteps.name 'speed' weighs the loss, which config.loss.weight = "
            "'uncertainty' would undo; choose another of the two."
        )
    return processes.noise_variances(process)
