"""The config schema: every key a run has, with its default and meaning.

A config file starts from `default_config()` and changes what differs. Where a comment lists
several names, a name's own options lie in the section of that name, such as `density.logit_normal`;
options of names that are not chosen are ignored. `cdt.register` adds names and their options.

Durations are strings: "2000" or "2000 steps", "500_000 examples", "30 epochs".
"""

import difflib
import json
import math
from collections.abc import Iterable
from typing import Any

from etils import epath
from ml_collections import ConfigDict

from cdt.errors import UserError
from cdt.old_keys import moved

# Sections of methods that `cdt.register` was given: "model.mlp" -> its keys with their defaults.
_added: dict[str, dict[str, Any]] = {}


def add_section(name: str, defaults: dict[str, Any]) -> None:
    """Add a section such as "model.mlp" to the schema, or replace it.

    Args:
      name: SECTION.METHOD, with a section of the schema.
      defaults: the keys with their defaults, of type bool, int, float or str, or tuples of one of
        these types with at least one element; {} for a method without options.

    Raises:
      UserError: a default of another type.
    """
    for key, value in defaults.items():
        kinds = {type(element) for element in (value if isinstance(value, tuple) else (value,))}
        if len(kinds) != 1 or not kinds <= {bool, int, float, str}:
            raise UserError(
                f"The default of config.{name}.{key} is {value!r}; give a bool, int, float or str, "
                "or a tuple of one of these types with at least one element."
            )
    _added.pop(name, None)
    if defaults:
        _added[name] = defaults


def default_config() -> ConfigDict:
    """All keys with their defaults: a small unconditional DiT with flow matching."""
    config = ConfigDict()
    config.seed = 0
    # Workdir of another run, or of imported weights: parameters and averages start as the weights
    # that it samples with, everything else anew. Empty: all starts from the seed.
    config.init_from = ""

    config.data = ConfigDict()
    config.data.name = "digits"  # digits | mock | idx | npz | tfds | folder | prepared | latents
    # idx: the folder; npz: the file; tfds: the data set, such as "imagenet_resized/64x64";
    # folder, prepared, latents: the folder that holds a folder of each split
    config.data.path = ""
    config.data.train_split = "train"
    config.data.test_split = "test"  # held out: validation loss and evaluation
    config.data.image_size = 8  # H = W, checked against the data; of latents: theirs
    config.data.channels = 1
    config.data.flip = False  # random horizontal flips
    # of the examples that may be damaged: the next good one takes the place of each
    config.data.max_bad_fraction = 0.02
    config.data.class_names = ()  # by label, for sample grids; empty: the data set's, if it has any
    config.data.text_encoder = ""  # whose states of the captions the model reads; empty: no text

    config.latents = ConfigDict()  # what data.name "latents" was made with, by cdt.data.latents
    config.latents.weights = ""  # .safetensors of a diffusers AutoencoderKL, config.json beside it
    config.latents.scaling = "constant"  # constant: scale | edm2: each channel to 0 +- 0.5
    config.latents.scale = 0.18215
    config.latents.batch_size = 32  # images encoded at a time, by all devices together

    config.model = ConfigDict()
    config.model.name = "dit"  # dit | adm | ddpmpp: U-Nets
    # instead of the keys of the network: "S/4" and the like (dit) | imagenet64 (adm) |
    # cifar10, ffhq64 (ddpmpp)
    config.model.size = ""
    config.model.patch_size = 2  # dit, with the next three
    config.model.hidden_size = 128
    config.model.depth = 6
    config.model.num_heads = 4
    config.model.channels = 64  # adm and ddpmpp, with the next four: a multiple of 32
    config.model.channel_mult = (1, 2)  # of each level, which halves the image
    config.model.num_blocks = 2  # a level
    config.model.attention_resolutions = (4,)  # image sizes, in pixels, at which blocks attend
    config.model.dropout = 0.0
    config.model.num_classes = 0  # 0: unconditional
    config.model.dtype = "float32"  # compute: float32 | bfloat16; parameters are always float32
    config.model.unroll = False  # dit: unrolled blocks (faster steps) or scanned (fast compilation)
    config.model.routing = False  # dit: each noise level has channels of its own (DTR)
    config.model.routing_alpha = 4.0  # of t/(T - 1) or u: how their place moves with the level
    config.model.routing_beta = 0.8  # their fraction of the width
    # computed again in the backward pass: none | elementwise: all but dense products and
    # convolutions | block: everything but a block's input. Less memory, slower.
    config.model.remat = "none"

    config.process = ConfigDict()
    config.process.name = "flow"  # flow | ddpm | edm
    config.process.path = "linear"  # flow: linear | gvp
    config.process.schedule = "linear"  # ddpm: linear | cosine
    config.process.num_timesteps = 1000  # ddpm
    config.process.prediction = "eps"  # ddpm: eps | x0 | v; edm and flow have their own
    config.process.learn_variance = False  # ddpm: the network emits 2C channels, loss = mse + vb
    config.process.p_mean = -1.2  # edm: ln sigma ~ N(p_mean, p_std^2)
    config.process.p_std = 1.2
    config.process.sigma_data = 0.5

    config.density = ConfigDict()  # where in u a run trains
    # uniform | logit_normal | second_moment | info_noise, with or without the curriculum;
    # two_phase | speed, without it
    config.density.name = "uniform"
    config.density.logit_normal = ConfigDict()  # u = sigmoid(mean + std z), z normal
    config.density.logit_normal.mean = 0.0
    config.density.logit_normal.std = 1.0
    config.density.second_moment = ConfigDict()  # more often where losses are large
    config.density.second_moment.num_bins = 100  # bins of u that remember losses
    config.density.info_noise = ConfigDict()  # more often where the entropy of the data falls
    config.density.info_noise.num_bins = 100  # bins of ln(sigma / alpha) that remember losses
    config.density.two_phase = ConfigDict()  # logit-normal first, uniform later
    config.density.two_phase.mean = 0.0
    config.density.two_phase.std = 1.0
    config.density.two_phase.switch_fraction = 0.4  # of the run, before the switch
    config.density.speed = ConfigDict()  # SpeeD: ddpm only, with a loss weight of its own
    config.density.speed.tau = 700  # timesteps below it are drawn k times as often
    config.density.speed.k = 2.0
    config.density.speed.lam = 0.6  # the loss weight below tau lies in 1 - lam..lam

    config.curriculum = ConfigDict()  # which part of u is open
    config.curriculum.enabled = True  # False: all of u, from the first step on
    config.curriculum.num_clusters = 20  # N; statistics of a run without curriculum use them too
    # of the clusters: uniform in u | snr: uniform in log SNR | custom
    config.curriculum.spacing = "uniform"
    config.curriculum.edges = ()  # custom: N + 1 numbers in u, from 0 to 1
    config.curriculum.edges_file = ""  # custom: curriculum.json of a difficulty study, order too
    config.curriculum.order = "easy_to_hard"  # | hard_to_easy | random | "3,1,2": 1 is the hardest
    config.curriculum.max_fraction = 1.0  # of the run, after which every cluster is open
    config.curriculum.pacing = "patience"  # patience | fixed
    config.curriculum.patience = ConfigDict()  # a stage ends when the loss stops improving
    config.curriculum.patience.steps = 200  # tau, steps without improvement that end a stage
    config.curriculum.patience.smoothing = 0.0  # of the loss that paces: 0 is the raw loss
    config.curriculum.patience.min_delta = 0.0  # an improvement must exceed this
    config.curriculum.patience.max_stage_steps = 0  # a stage is no longer than this; 0: no limit
    config.curriculum.fixed = ConfigDict()  # every stage has the same length
    config.curriculum.fixed.steps_per_stage = 200

    config.loss = ConfigDict()
    config.loss.weight = "none"  # none | min_snr | p2 | uncertainty: learned (EDM2)
    config.loss.min_snr = ConfigDict()  # min(SNR, gamma) on the error of x0
    config.loss.min_snr.gamma = 5.0
    config.loss.p2 = ConfigDict()  # 1 / (k + SNR)^gamma on the error of eps
    config.loss.p2.k = 1.0
    config.loss.p2.gamma = 1.0

    config.optim = ConfigDict()
    config.optim.name = "adamw"  # adamw | adam
    config.optim.lr = 1e-4
    config.optim.schedule = "constant"  # constant | cosine | rsqrt, after the warm-up
    config.optim.warmup = "0 steps"
    config.optim.b1 = 0.9
    config.optim.b2 = 0.999
    config.optim.eps = 1e-8
    config.optim.weight_decay = 0.0
    config.optim.clip_norm = 0.0  # global norm of the gradient; 0: never clipped

    config.ema = ConfigDict()  # the averages side by side; the first is sampled by default
    config.ema.decays = (0.9999,)
    config.ema.half_lives_kimg = ()  # in thousands of images, ramped up as EDM does
    # EDM2's power functions by relative width, such as (0.05, 0.1), from which sample.ema =
    # "posthoc0.15" puts together any other, of all checkpoints that were kept
    config.ema.power_stds = ()

    config.train = ConfigDict()
    config.train.duration = "2000 steps"
    config.train.batch_size = 128  # global
    config.train.accumulate = 1  # microbatches a step
    config.train.steps_per_dispatch = 1  # in one program; must divide every interval and the run
    config.train.condition_dropout = 0.1  # fraction trained without label or text, for guidance
    config.train.augment = 0.0  # EDM's augmentation, of which the network is told; its probability
    config.train.max_bad_steps = 20  # non-finite steps in a row that stop the run

    config.mesh = ConfigDict()
    config.mesh.data = -1  # -1: what is left
    config.mesh.fsdp = 1
    config.mesh.min_shard_size = 2**16  # smaller tensors are replicated

    config.validation = ConfigDict()
    config.validation.every = "100 steps"
    config.validation.images = 64  # images (and noises) a cluster
    config.validation.clusters = 0  # equal intervals of u; 0: the clusters of `curriculum`

    config.log = ConfigDict()
    config.log.every = "50 steps"
    config.log.tensorboard = True  # beside metrics.jsonl

    config.profile = ConfigDict()
    # (start, stop): the steps start .. stop - 1 are traced into the workdir's folder "profile", to
    # be opened in TensorBoard or Perfetto; empty: none
    config.profile.steps = ()

    config.checkpoint = ConfigDict()
    config.checkpoint.every = "500 steps"
    config.checkpoint.keep = 3  # the newest, and
    config.checkpoint.keep_every = "0 steps"  # those at multiples of this, for good; 0: none
    # where one cannot be written: continue: say so, train on and try the next | stop: exit code 2
    config.checkpoint.on_failure = "continue"

    config.sample = ConfigDict()
    config.sample.every = "500 steps"  # grids while training
    # ancestral | ddim | dpm_solver | heun | euler | euler_maruyama
    config.sample.sampler = "heun"
    config.sample.steps = 50
    config.sample.guidance = 1.0  # 1: none
    config.sample.guidance_interval = (0.0, 1.0)  # in u
    config.sample.guidance_channels = 0  # the first of them; 0: all; DiT's own samples: 3 of 4
    config.sample.clip = False  # ddpm: clip the predicted x0 to [-1, 1] (pixels)
    config.sample.sigma_min = 0.002  # edm
    config.sample.sigma_max = 80.0
    config.sample.rho = 7.0
    config.sample.ema = ""  # name of an average, "posthoc0.15", or "raw"; empty: the first of `ema`
    config.sample.num = 100
    config.sample.classes = ()  # sampled in turn; empty: all of them
    config.sample.prompts = ()  # drawn in turn by a model that reads text; empty: held-out captions
    config.sample.batch_size = 500  # latents: decoded together, about 16 a device
    config.sample.seed = 0
    config.sample.heun = ConfigDict()  # EDM's churn, on edm only; 0 is none
    config.sample.heun.S_churn = 0.0
    config.sample.heun.S_min = 0.05
    config.sample.heun.S_max = 50.0
    config.sample.heun.S_noise = 1.003
    config.sample.ddim = ConfigDict()
    config.sample.ddim.eta = 0.0  # 0: deterministic; 1: as much noise as the ancestral sampler
    config.sample.euler_maruyama = ConfigDict()
    config.sample.euler_maruyama.last_step = 0.04  # its size; it adds no noise

    config.evaluate = ConfigDict()
    config.evaluate.num = 2000  # generated images
    config.evaluate.features = "pixels"  # pixels | efficientnet-lite0 | inception: FID and the rest
    config.evaluate.weights = ""  # inception: its file; empty: ~/.cache/cdt, downloaded if absent
    config.evaluate.batch_size = 64  # images through the feature network at a time
    config.evaluate.reference = ""  # npz of statistics or images, or a folder; empty: the data
    config.evaluate.reference_cache = ""  # statistics of data sets; empty: in the workdir
    config.evaluate.samples = ""  # npz or folder to evaluate instead of the run's own samples
    config.evaluate.every = "0 steps"  # while training; 0: never
    config.evaluate.emas = ()  # averages evaluated while training; empty: the one that is sampled

    config.difficulty = ConfigDict()  # --mode=difficulty; the clusters are those of `curriculum`
    config.difficulty.duration = "500 steps"  # training of each cluster's model
    config.difficulty.validations = 25  # points of each curve
    config.difficulty.seeds = 3
    config.difficulty.side_by_side = False  # a model a device, not each model over all of them
    config.difficulty.num_pairs = 100  # relative entropy: pairs of neighbouring levels
    config.difficulty.num_draws = 1000
    config.difficulty.max_images = 50_000  # evenly spaced ones where there are more

    config.compare = ConfigDict()  # --mode=compare
    config.compare.arms = (  # "name: key=value ..."; the first is the baseline
        "uniform: curriculum.enabled=False density.name=uniform",
        "curriculum: curriculum.enabled=True density.name=uniform",
        "hard_to_easy: curriculum.enabled=True density.name=uniform curriculum.order=hard_to_easy",
        "logit_normal: curriculum.enabled=False density.name=logit_normal",
        "second_moment: curriculum.enabled=False density.name=second_moment",
        "two_phase: curriculum.enabled=False density.name=two_phase",
        "info_noise: curriculum.enabled=False density.name=info_noise",
        "min_snr: curriculum.enabled=False density.name=uniform loss.weight=min_snr",
        "p2: curriculum.enabled=False density.name=uniform loss.weight=p2",
        "uncertainty: curriculum.enabled=False density.name=uniform loss.weight=uncertainty",
        "curriculum+min_snr: curriculum.enabled=True density.name=uniform loss.weight=min_snr",
        "curriculum+logit_normal: curriculum.enabled=True density.name=logit_normal",
        "curriculum+info_noise: curriculum.enabled=True density.name=info_noise",
    )
    config.compare.seeds = 3
    config.compare.evaluations = 10  # of each run, evenly spaced

    config.replay = ConfigDict()  # --mode=replay
    config.replay.step = 0  # which one is repeated, from 1 on

    config.compilation_cache = "~/.cache/cdt/xla"  # empty: off

    for name, defaults in _added.items():
        section, _, method = name.partition(".")
        config[section][method] = ConfigDict(defaults)
    return config


def flatten(config: ConfigDict) -> dict[str, object]:
    """{"optim.lr": 1e-4, ...}."""
    flat = {}
    for key, value in config.items():
        if isinstance(value, ConfigDict):
            flat.update({f"{key}.{inner}": v for inner, v in flatten(value).items()})
        else:
            flat[key] = value
    return flat


def nearest(word: str, known: Iterable[str]) -> str:
    """ "; did you mean 'x'?" where a known word is close, otherwise the list of known words."""
    close = difflib.get_close_matches(word, list(known), n=1, cutoff=0.6)
    return f"did you mean '{close[0]}'?" if close else f"it must be one of {', '.join(known)}."


def unknown_key(key: str) -> UserError:
    """The error for a config key that the schema lacks."""
    if sentence := moved(key):
        return UserError(sentence)
    known = flatten(default_config())
    # Compare the last part within its own section first: `optim.lrr` is nearer to `optim.lr` than
    # to anything else, and a misspelt section nearer to the section.
    section = [k for k in known if k.rpartition(".")[0] == key.rpartition(".")[0]]
    for candidates in (section, known):
        close = difflib.get_close_matches(key, list(candidates), n=1, cutoff=0.6)
        if close:
            return UserError(f"The config has no key '{key}'; did you mean '{close[0]}'?")
    where = ", ".join(section or [k for k in default_config()])
    return UserError(f"The config has no key '{key}'; there are {where}.")


# Types of what the tuples hold.
_ELEMENTS = {
    "compare.arms": str,
    "curriculum.edges": float,
    "data.class_names": str,
    "ema.decays": float,
    "ema.half_lives_kimg": float,
    "ema.power_stds": float,
    "evaluate.emas": str,
    "model.attention_resolutions": int,
    "model.channel_mult": int,
    "profile.steps": int,
    "sample.classes": int,
    "sample.guidance_interval": float,
    "sample.prompts": str,
}
_MAY_BE_INFINITE = {"sample.heun.S_max"}  # no upper end, as is EDM's own default


def _is_a(kind: type, value: object) -> bool:
    kinds = {float: (float, int), tuple: (tuple, list)}.get(kind, (kind,))
    return isinstance(value, kinds) and (kind is bool or not isinstance(value, bool))


def check_keys(config: ConfigDict) -> None:
    """Raise UserError unless the config has exactly the schema's keys, with values of its types.

    An int is accepted where the schema has a float, a list where it has a tuple, whose elements are
    then checked too. Numbers are finite, but for those in _MAY_BE_INFINITE.
    """
    known, given = flatten(default_config()), flatten(config)
    for key in given:
        if key not in known:
            raise unknown_key(key)
    for key, default in known.items():
        if key not in given:
            raise UserError(
                f"The config lacks the key '{key}'; start from cdt.config.default_config()."
            )
        value = given[key]
        if not _is_a(type(default), value):
            raise UserError(
                f"config.{key} is {value!r}, a {type(value).__name__}; it must be a "
                f"{type(default).__name__} such as {default!r}."
            )
        if isinstance(value, float) and not math.isfinite(value) and key not in _MAY_BE_INFINITE:
            raise UserError(f"config.{key} is {value}; give a finite number such as {default!r}.")
        if not isinstance(default, tuple) or not isinstance(value, Iterable):
            continue
        kind = _ELEMENTS[key] if key in _ELEMENTS else type(default[0])
        for element in value:
            if not _is_a(kind, element):
                raise UserError(
                    f"config.{key} holds {element!r}, a {type(element).__name__}; its elements "
                    f"must be of type {kind.__name__}."
                )
            if isinstance(element, float) and not math.isfinite(element):
                raise UserError(f"config.{key} holds {element}; give finite numbers.")


def with_fitted_edges(config: ConfigDict) -> None:
    """Put the clusters of `curriculum.edges_file` into the config, in place of the file's name:
    the numbers, not a path, are what makes a run the run it is.

    Raises:
      UserError: the file is missing or is no fitted curriculum.
    """
    path = config.curriculum.edges_file
    if not path:
        return
    try:
        fitted = json.loads(epath.Path(path).read_text())
        edges, order = tuple(map(float, fitted["edges"])), str(fitted["order"])
    except OSError:
        raise UserError(
            f"config.curriculum.edges_file is '{path}'; there is no such file: give the "
            "curriculum.json of --mode=difficulty."
        ) from None
    except (ValueError, KeyError, TypeError):
        raise UserError(
            f"config.curriculum.edges_file is '{path}', which is no fitted curriculum; give the "
            "curriculum.json of --mode=difficulty."
        ) from None
    config.curriculum.update(
        spacing="custom", edges=edges, num_clusters=len(edges) - 1, order=order, edges_file=""
    )


def duration(text: str, key: str, batch_size: int, num_examples: int) -> int:
    """Steps in a duration.

    Args:
      text: "2000", "2000 steps", "1_000_000 examples" or "30 epochs"; the number may be fractional
        for epochs. Examples and epochs are rounded up to whole steps.
      key: the config key, for the message.
      batch_size: global batch.
      num_examples: size of the training set.

    Raises:
      UserError: not of that form, or negative.
    """
    number, _, unit = text.strip().partition(" ")
    per_unit = {"": 1.0, "steps": 1.0, "examples": 1 / batch_size,
                "epochs": num_examples / batch_size}  # fmt: skip
    try:
        amount = float(number) * per_unit[unit.strip()]
        if not 0 <= amount < 2**31:
            raise ValueError
    except (ValueError, KeyError):
        raise UserError(
            f"config.{key} is {text!r}; it must be a duration such as '2000 steps', "
            "'500_000 examples' or '30 epochs'."
        ) from None
    return int(-(-amount // 1))


def check_variant(variant: str, *known: str) -> None:
    """Raise UserError unless a config file's variant is empty or one of `known`."""
    if variant and variant not in known:
        raise UserError(
            f"The config has no variant '{variant}'; did you mean one of {', '.join(known)}?"
        )
