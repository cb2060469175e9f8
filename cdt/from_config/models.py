"""Config -> noise family, prediction and network; the losses of a model."""

from collections.abc import Callable
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
from jax import Array
from jax.sharding import Mesh
from jax.typing import DTypeLike
from ml_collections import ConfigDict

from cdt.devices.sharding import split_batch
from cdt.diffusion import prediction as predictions
from cdt.diffusion import process as processes
from cdt.diffusion import schedules
from cdt.diffusion.denoiser import Condition, ConditionalNetwork
from cdt.diffusion.loss import Apply, ExampleLoss, make_example_loss, make_loss
from cdt.diffusion.loss_weights import no_weight
from cdt.diffusion.pixels import ToX0
from cdt.diffusion.prediction import Prediction
from cdt.diffusion.process import Process, per_example
from cdt.diffusion.uncertainty import LogVariance, Uncertainty
from cdt.errors import UserError
from cdt.from_config.choices import at_least, choose, options
from cdt.from_config.datasets import text_states
from cdt.from_config.latent_space import to_x0
from cdt.from_config.loss_weights import chosen_weight
from cdt.from_config.timesteps import loss_weight
from cdt.models.dit import DiT, named_dit
from cdt.models.layers import unconstrained
from cdt.models.remat import REMATS
from cdt.models.routing import task_routing
from cdt.models.unet import ADM_SIZES, DDPMPP_SIZES, adm, ddpmpp
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


class NetworkSpec(NamedTuple):
    """What a network is built for. It is called as network(x, time, label=..., text=...,
    text_length=..., augment=...), see docs/howto/network.md."""

    image_shape: tuple[int, int, int]  # (H, W, C) of x, pixels or latents
    out_channels: int  # C, or 2C where the variance is learned
    num_classes: int | None  # None: it is given no label
    text_width: int | None  # W of the text states; None: it is given no text
    dtype: DTypeLike  # of products and activations; parameters are float32
    remat: str  # what is computed again in the backward pass, see `cdt.models.remat`
    constrain: Callable[[Array], Array]  # keeps examples on their devices: x [B, ...] -> x
    whole_kernels: bool  # parameters are not split over devices
    position: Callable[[Array], Array]  # time input -> f32 in [0, 1], 0 clean


# Each returns a Flax module and is called as (spec, **options), with the options of
# `config.model.<name>`, or the keys in `SHIPPED`.
MODELS: dict[str, Callable[..., Any]] = {
    "dit": lambda spec, **options: _dit(spec, **options),
    "adm": lambda spec, **options: adm(**_unet_fields(spec, ADM_SIZES, **options)),
    "ddpmpp": lambda spec, **options: ddpmpp(**_unet_fields(spec, DDPMPP_SIZES, **options)),
}
_UNET_KEYS = (
    "size", "channels", "channel_mult", "num_blocks", "attention_resolutions", "dropout", "routing",
)  # fmt: skip
# The keys of `config.model` itself that a shipped network has as its options.
SHIPPED = {
    "dit": (
        "size", "patch_size", "hidden_size", "depth", "num_heads", "unroll", "routing",
        "routing_alpha", "routing_beta",
    ),
    "adm": _UNET_KEYS,
    "ddpmpp": _UNET_KEYS,
}  # fmt: skip


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
    """Build the process, its prediction and the network.

    Args:
      config: the run's.
      mesh: over whose devices the examples of a batch are split inside the network; None leaves
        their places to the compiler.
    """
    c, process = config.process, _process(config)
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
    weight = chosen_weight(config, process, prediction)
    learned = weight if isinstance(weight, Uncertainty) else None

    null = {"label": jnp.int32(num_classes)} if num_classes else {}
    text = text_states(config, config.data.train_split)
    if text:
        null |= {name: jnp.asarray(value) for name, value in text.null.items()}
    network = _network(config, process, text.manifest.width if text else None, mesh)

    probability = config.train.augment
    if not 0.0 <= probability <= 1.0 or (probability and config.data.name == "latents"):
        raise UserError(
            f"config.train.augment is {probability}; it must lie in [0, 1], and be 0 where "
            "config.data.name is 'latents', which cannot be turned."
        )

    def init(key: Array) -> PyTree:
        x = jnp.zeros((1, *image_shape))
        one: dict[str, Any] = {name: jnp.asarray(value)[None] for name, value in null.items()}
        if probability:
            one["augment"] = jnp.zeros((1, NUM_LABELS))
        params = network.init(key, x, jnp.zeros(1), **one)["params"]
        return params | ({"loss_uncertainty": learned.init()} if learned else {})

    def apply(
        params: PyTree, x: Array, time: Array, condition: Condition, key: Array | None
    ) -> Array:
        rngs = None if key is None else {"dropout": key}
        # Validation and sampling do not augment, so their condition has no such entry.
        names = [*null, "augment"] if "augment" in condition else null
        used: dict[str, Any] = {name: condition[name] for name in names}
        return cast(Array, network.apply({"params": params}, x, time, **used, rngs=rngs))

    def log_variance(params: PyTree, level: Array) -> Array:
        assert learned is not None
        return learned.log_variance(params["loss_uncertainty"], level)

    return Model(
        process, prediction, c.learn_variance, init, apply, image_shape,
        num_classes, null, log_variance if learned else None, to_x0(config),
    )  # fmt: skip


def _process(config: ConfigDict) -> Process:
    at_least(config, "process.num_timesteps", 1)
    return choose("process.name", config.process.name, PROCESSES)(config.process)


def network_at(model: Model, params: PyTree) -> ConditionalNetwork:
    """Return network(x [B, H, W, C], native level [B], condition) -> raw output [B, H, W, C or 2C]
    f32, without dropout: what samplers and exports evaluate."""

    def network(x: Array, level: Array, condition: Condition) -> Array:
        scaled = per_example(model.prediction.c_in(level), x) * x
        return model.apply(params, scaled, model.process.time_input(level), condition, None)

    return network


def dit(config: ConfigDict) -> DiT:
    """Return the DiT of a class-conditional run, for code that needs its sizes.

    Raises:
      UserError: the run's network is another.
    """
    if config.model.name != "dit" or not config.model.num_classes or config.data.text_encoder:
        kind = "reads text" if config.data.text_encoder else (
            f"has config.model.name '{config.model.name}' and {config.model.num_classes} classes"
        )  # fmt: skip
        raise UserError(
            f"The run {kind}; other programs know a DiT conditioned on a class alone: "
            "give the config of such a run (export_safetensors takes any)."
        )
    if config.model.routing:
        raise UserError(
            "config.model.routing is True, which no other program knows; use export_safetensors."
        )
    return _shipped_dit(config)


def attention_heads(config: ConfigDict) -> int | None:
    """Return the number of heads of a DiT, which its parameters do not show, or None."""
    return _shipped_dit(config).num_heads if config.model.name == "dit" else None


def _network(
    config: ConfigDict, process: Process, text_width: int | None, mesh: Mesh | None
) -> Any:
    c = config.model
    build = choose("model.name", c.name, MODELS)
    at_least(config, "model.num_classes", 0)
    spec = NetworkSpec(
        image_shape=(config.data.image_size, config.data.image_size, config.data.channels),
        out_channels=config.data.channels * (2 if config.process.learn_variance else 1),
        num_classes=c.num_classes or None,
        text_width=text_width,
        dtype=choose("model.dtype", c.dtype, DTYPES),
        remat=choose("model.remat", c.remat, REMATS),
        constrain=unconstrained if mesh is None else split_batch(mesh),
        whole_kernels=mesh is None or mesh.shape["fsdp"] == 1,
        position=process.position,
    )
    return build(spec, **_network_options(config))


def _network_options(config: ConfigDict) -> dict[str, Any]:
    name = config.model.name
    if name in SHIPPED:
        return {key: config.model[key] for key in SHIPPED[name]}
    return options(config, "model", name)


def _shipped_dit(config: ConfigDict) -> DiT:
    """The DiT of a config, without text and on one device."""
    network = _network(config, _process(config), None, None)
    assert isinstance(network, DiT)
    return network


def _dit(
    spec: NetworkSpec,
    size: str,
    routing: bool,
    routing_alpha: float,
    routing_beta: float,
    unroll: bool,
    **fields: Any,
) -> DiT:
    for key, value in fields.items():
        if value < 1:
            raise UserError(f"config.model.{key} is {value}; it must be at least 1.")
    options: dict[str, Any] = dict(
        out_channels=spec.out_channels,
        num_classes=spec.num_classes,
        text_width=spec.text_width,
        dtype=spec.dtype,
        unroll=unroll,
        remat=spec.remat,
        constrain=spec.constrain,
        separate_qkv=spec.whole_kernels and jax.default_backend() == "gpu",
        routing=task_routing(spec.position, routing_alpha, routing_beta) if routing else None,
    )
    return named_dit(size, **options) if size else DiT(**fields, **options)


def _unet_fields(
    spec: NetworkSpec, sizes: dict[str, dict[str, Any]], size: str, routing: bool, **fields: Any
) -> dict[str, Any]:
    """The fields of a U-Net."""
    if spec.text_width is not None:
        raise UserError(
            "config.data.text_encoder is set, but a U-Net reads no text; leave it empty, or set "
            "config.model.name to 'dit'."
        )
    if routing:
        raise UserError(
            "config.model.routing is True, but a U-Net has no task routing; set it to False, or "
            "config.model.name to 'dit'."
        )
    common = dict(
        out_channels=spec.out_channels,
        num_classes=spec.num_classes,
        dtype=spec.dtype,
        remat=spec.remat,
        constrain=spec.constrain,
    )
    if size:
        return choose("model.size", size, sizes) | common
    for key, least in (("channels", 4), ("num_blocks", 1)):
        if fields[key] < least:
            raise UserError(f"config.model.{key} is {fields[key]}; it must be at least {least}.")
    fields["attention_resolutions"] = tuple(fields["attention_resolutions"])
    multipliers = fields["channel_mult"] = tuple(fields["channel_mult"])
    if not multipliers or not all(isinstance(m, int) and m >= 1 for m in multipliers):
        raise UserError(
            f"config.model.channel_mult is {multipliers}; it must be whole numbers of at least 1, "
            "one a level, such as (1, 2, 2)."
        )
    if not 0.0 <= fields["dropout"] < 1.0:
        raise UserError(f"config.model.dropout is {fields['dropout']}; it must lie in [0, 1).")
    return fields | common


def example_loss(model: Model) -> ExampleLoss:
    """The unweighted loss, which validation measures whatever training optimises."""
    loss = make_loss(model.process, model.prediction, model.learn_variance)
    return make_example_loss(model.apply, model.process, model.prediction, loss)


def training_loss(config: ConfigDict, model: Model) -> ExampleLoss:
    """The loss that is optimised: weighted as `config.loss` says."""
    weight = loss_weight(config, model.process, model.prediction)
    known = no_weight() if isinstance(weight, Uncertainty) else weight
    loss = make_loss(model.process, model.prediction, model.learn_variance, known)
    return make_example_loss(model.apply, model.process, model.prediction, loss, model.log_variance)
