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
from cdt.from_config.choices import at_least, choose, named, options
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
    """The argument of the builder of a network.

    The network is called as network(x, time, label=..., text=..., text_length=..., augment=...),
    see docs/howto/network.md.
    """

    image_shape: tuple[int, int, int]  # (H, W, C) of x, pixels or latents
    out_channels: int  # C, or 2C if the variance is learned
    num_classes: int | None  # None: no label is passed
    text_width: int | None  # W of the text states; None: no text is passed
    dtype: DTypeLike  # of the computation; weights are float32
    remat: str  # what the backward pass recomputes, see `cdt.models.remat`
    constrain: Callable[[Array], Array]  # x [B, ...] -> x, with each example on its device
    whole_kernels: bool  # True: weights are not split over devices
    position: Callable[[Array], Array]  # time input -> f32 in [0, 1]; 0 is clean


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
    """A network together with the noise process that it reverses."""

    process: Process
    prediction: Prediction
    learn_variance: bool
    init: Callable[[Array], PyTree]  # PRNG key -> params f32
    apply: Apply  # (params, x, time, condition, key) -> raw output
    image_shape: tuple[int, int, int]
    num_classes: int  # 0: no class label
    null: Condition  # the null condition, without the axis [B]; empty: unconditional
    log_variance: LogVariance | None  # learned uncertainty of the loss, or None
    to_x0: ToX0  # images of a batch -> x0, the input of training


def model(config: ConfigDict, mesh: Mesh | None = None) -> Model:
    """Build the process, its prediction and the network.

    Args:
      config: of the run.
      mesh: the network splits the examples of a batch over its devices; None leaves that to the
        compiler.

    Raises:
      UserError: a value is out of range or does not fit the others.
    """
    c, process = config.process, _process(config)
    with named("process"):
        if c.name == "ddpm":
            prediction = choose("process.prediction", c.prediction, DDPM_PREDICTIONS)(process)
        elif c.name == "edm":
            prediction = predictions.edm_prediction(c.sigma_data)
        else:
            prediction = predictions.velocity_prediction(process)
    if c.learn_variance and c.name != "ddpm":
        raise UserError(
            f"config.process.learn_variance is True, which needs the family 'ddpm', but "
            f"config.process.name is '{c.name}'; set it to False."
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
            f"config.train.augment is {probability}; it must lie in [0, 1], and be 0 for latents "
            f"(config.data.name is '{config.data.name}'), which cannot be rotated."
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
        # Validation and sampling do not augment, so their condition has no entry "augment".
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
    build = choose("process.name", config.process.name, PROCESSES)
    with named("process"):
        return build(config.process)


def network_at(model: Model, params: PyTree) -> ConditionalNetwork:
    """Return network(x [B, H, W, C], native level [B], condition) -> raw output f32 [B, H, W, C or
    2C], without dropout, for samplers and exports."""

    def network(x: Array, level: Array, condition: Condition) -> Array:
        scaled = per_example(model.prediction.c_in(level), x) * x
        return model.apply(params, scaled, model.process.time_input(level), condition, None)

    return network


def dit(config: ConfigDict) -> DiT:
    """Return the DiT of a class-conditional run, for exports and imports.

    Raises:
      UserError: the run has another network.
    """
    if config.model.name != "dit" or not config.model.num_classes or config.data.text_encoder:
        raise UserError(
            f"config.model.name is '{config.model.name}', config.model.num_classes is "
            f"{config.model.num_classes} and config.data.text_encoder is "
            f"'{config.data.text_encoder}'; other programs know only a DiT with classes and "
            "without text: use export_safetensors, which takes any run."
        )
    if config.model.routing:
        raise UserError(
            "config.model.routing is True, which no other program supports; use export_safetensors."
        )
    return _shipped_dit(config)


def attention_heads(config: ConfigDict) -> int | None:
    """Return the number of attention heads of a DiT, which its weights do not show; None for other
    networks."""
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
    with named("model"):
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
    network = named_dit(size, **options) if size else DiT(**fields, **options)
    side, patch, width = spec.image_shape[0], network.patch_size, network.hidden_size
    if side % patch:
        raise UserError(
            f"config.model.patch_size is {patch}; it must divide config.data.image_size, {side}."
        )
    if width % network.num_heads or width % 4:
        raise UserError(
            f"config.model.hidden_size is {width}; it must be divisible by 4 and by "
            f"config.model.num_heads, {network.num_heads}."
        )
    if routing and int(routing_beta * width) < 1:
        raise UserError(
            f"config.model.routing_beta is {routing_beta:g}, which leaves none of {width} "
            f"channels; it must be at least {1 / width:g}."
        )
    return network


def _unet_fields(
    spec: NetworkSpec, sizes: dict[str, dict[str, Any]], size: str, routing: bool, **fields: Any
) -> dict[str, Any]:
    """The fields of a U-Net."""
    if spec.text_width is not None:
        raise UserError(
            "config.data.text_encoder is given, but the U-Nets read no text; leave it empty, or "
            "set config.model.name to 'dit'."
        )
    if routing:
        raise UserError(
            "config.model.routing is True, but the U-Nets have no task routing; set it to False, "
            "or set config.model.name to 'dit'."
        )
    common = dict(
        out_channels=spec.out_channels,
        num_classes=spec.num_classes,
        dtype=spec.dtype,
        remat=spec.remat,
        constrain=spec.constrain,
    )
    if size:
        fields = choose("model.size", size, sizes)
        _check_unet(spec.image_shape[0], **fields)
        return fields | common
    for key, least in (("channels", 4), ("num_blocks", 1)):
        if fields[key] < least:
            raise UserError(f"config.model.{key} is {fields[key]}; it must be at least {least}.")
    fields["attention_resolutions"] = tuple(fields["attention_resolutions"])
    multipliers = fields["channel_mult"] = tuple(fields["channel_mult"])
    if not multipliers or not all(isinstance(m, int) and m >= 1 for m in multipliers):
        raise UserError(
            f"config.model.channel_mult is {multipliers}; it must have an integer of at least 1 "
            "for each level, such as (1, 2, 2)."
        )
    if not 0.0 <= fields["dropout"] < 1.0:
        raise UserError(f"config.model.dropout is {fields['dropout']}; it must lie in [0, 1).")
    _check_unet(spec.image_shape[0], **fields)
    return fields | common


def _check_unet(
    side: int,
    channels: int,
    channel_mult: tuple[int, ...],
    attention_resolutions: tuple[int, ...],
    **_: Any,
) -> None:
    """Raise UserError for shapes that the network would refuse only when it is traced."""
    widths = [channels * multiplier for multiplier in channel_mult]
    if any(width % (4 if width < 128 else 32) for width in [channels, *widths]):
        raise UserError(f"config.model.channels is {channels}; it must be a multiple of 32.")
    halvings = len(channel_mult) - 1
    if side % 2**halvings:
        raise UserError(
            f"config.model.channel_mult is {channel_mult}; its {halvings + 1} levels halve the "
            f"image {halvings} times, so config.data.image_size, {side}, must be divisible by "
            f"{2**halvings}: use fewer levels or another size."
        )
    sides = [side >> level for level in range(halvings + 1)]
    if missing := set(attention_resolutions) - set(sides):
        raise UserError(
            f"config.model.attention_resolutions has {max(missing)}; give resolutions of the "
            f"levels: {', '.join(map(str, sides))}."
        )


def example_loss(model: Model) -> ExampleLoss:
    """Return the unweighted loss, which validation measures."""
    loss = make_loss(model.process, model.prediction, model.learn_variance)
    return make_example_loss(model.apply, model.process, model.prediction, loss)


def training_loss(config: ConfigDict, model: Model) -> ExampleLoss:
    """Return the loss that training minimises, with the weight of `config.loss`."""
    weight = loss_weight(config, model.process, model.prediction)
    known = no_weight() if isinstance(weight, Uncertainty) else weight
    loss = make_loss(model.process, model.prediction, model.learn_variance, known)
    return make_example_loss(model.apply, model.process, model.prediction, loss, model.log_variance)
