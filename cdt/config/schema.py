"""The config schema: every key of a run, with its default and its meaning.

A config file starts from `default_config()` and changes some keys. A method chosen by name, such as
`density.name = "logit_normal"`, has its options in the section of that name, here
`density.logit_normal`. Options of methods that are not chosen are ignored. `cdt.register` adds
methods and their options.

Durations are strings: "2000" or "2000 steps", "500_000 examples", "30 epochs".

`cdt.key_table` reads the comments below: they are the text of `--help=SECTION` and of the page of
config keys. Each key has a comment, behind it or in the lines above it.
"""

from typing import Any

from ml_collections import ConfigDict

from cdt.errors import UserError

# Sections of registered methods: "model.mlp" -> its keys with their defaults.
_added: dict[str, dict[str, Any]] = {}


def add_section(name: str, defaults: dict[str, Any]) -> None:
    """Add a section such as "model.mlp" to the schema, or replace it.

    Args:
      name: SECTION.METHOD, where SECTION is a section of the schema.
      defaults: the keys with their defaults, of type bool, int, float or str, or tuples of one of
        these types with at least one element; {} for a method without options.

    Raises:
      UserError: a default is of another type.
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
    """Return a config with every key at its default: a small unconditional DiT, flow matching."""
    config = ConfigDict()
    config.seed = 0  # of the initial weights, the noise levels and the order of the data
    # workdir of another run or of imported weights: training starts from the weights that it
    # samples with; the optimizer and the curriculum start from scratch; empty: a random start
    config.init_from = ""

    config.data = ConfigDict()  # images or latents to train on
    config.data.name = "digits"  # digits | mock | idx | npz | tfds | folder | prepared | latents
    # idx: a folder; npz: a file; tfds: a data set such as "imagenet_resized/64x64"; folder,
    # prepared, latents: a folder with one folder for each split
    config.data.path = ""
    config.data.train_split = "train"  # name of the training split
    config.data.test_split = "test"  # name of the held-out split, for validation and evaluation
    config.data.image_size = 8  # height and width of the images, or of the latents
    config.data.channels = 1  # channels of the images (1: grey, 3: RGB), or of the latents
    config.data.flip = False  # flip images horizontally at random
    # fraction of the examples that may be damaged; the next good example replaces each of them
    config.data.max_bad_fraction = 0.02
    config.data.class_names = ()  # by label, for sample grids; empty: those of the data set
    config.data.text_encoder = ""  # encoder of the captions the model reads; empty: no text

    config.latents = ConfigDict()  # autoencoder of the latents (data.name = "latents")
    # .safetensors file of a diffusers AutoencoderKL, with config.json in the same folder
    config.latents.weights = ""
    config.latents.scaling = "constant"  # constant: times `scale` | edm2: mean 0, std 0.5
    config.latents.scale = 0.18215  # factor of the constant scaling
    config.latents.batch_size = 32  # images that all devices together encode at a time

    config.model = ConfigDict()  # the network
    config.model.name = "dit"  # dit | adm | ddpmpp; the last two are U-Nets
    # a published size, which replaces the keys of the network below: "S/4" and the like (dit) |
    # imagenet64 (adm) | cifar10, ffhq64 (ddpmpp); empty: the keys below
    config.model.size = ""
    config.model.patch_size = 2  # dit: side of a patch in pixels
    config.model.hidden_size = 128  # dit: width
    config.model.depth = 6  # dit: number of blocks
    config.model.num_heads = 4  # dit: attention heads
    config.model.channels = 64  # adm, ddpmpp: channels at the first level, a multiple of 32
    # adm, ddpmpp: factor of the channels at each level; each level halves the image
    config.model.channel_mult = (1, 2)
    config.model.num_blocks = 2  # adm, ddpmpp: residual blocks in each level
    config.model.attention_resolutions = (4,)  # adm, ddpmpp: image sizes with attention, in pixels
    config.model.dropout = 0.0  # adm, ddpmpp: dropout probability
    config.model.num_classes = 0  # number of classes; 0: unconditional
    config.model.dtype = "float32"  # of the computation: float32 | bfloat16; weights are float32
    config.model.unroll = False  # dit: True: faster steps; False: faster compilation (a scan)
    config.model.routing = False  # dit: each noise level has its own channels (DTR)
    config.model.routing_alpha = 4.0  # how the routed channels move with the noise level
    config.model.routing_beta = 0.8  # fraction of the channels that a noise level uses
    # recompute activations in the backward pass, which saves memory and costs time: none |
    # elementwise: all but matrix products and convolutions | block: all but the input of a block
    config.model.remat = "none"

    config.process = ConfigDict()  # the noise process and what the network predicts
    config.process.name = "flow"  # family: flow | ddpm | edm
    config.process.path = "linear"  # flow: linear | gvp
    config.process.schedule = "linear"  # ddpm: linear | cosine
    config.process.num_timesteps = 1000  # ddpm: number of timesteps
    config.process.prediction = "eps"  # ddpm: eps | x0 | v; edm and flow have a fixed one
    config.process.learn_variance = False  # ddpm: also predict the variance, with a second loss
    config.process.p_mean = -1.2  # edm: mean of ln(sigma) in training
    config.process.p_std = 1.2  # edm: standard deviation of ln(sigma) in training
    config.process.sigma_data = 0.5  # edm: standard deviation of the data

    config.density = ConfigDict()  # at which noise levels u a run trains
    # with or without the curriculum: uniform | logit_normal | second_moment | info_noise; only
    # without it: two_phase | speed
    config.density.name = "uniform"
    config.density.logit_normal = ConfigDict()  # u = sigmoid(mean + std z), z standard normal
    config.density.logit_normal.mean = 0.0  # mean of logit(u)
    config.density.logit_normal.std = 1.0  # standard deviation of logit(u)
    config.density.second_moment = ConfigDict()  # more often where losses are large
    config.density.second_moment.num_bins = 100  # bins of u with a record of losses
    config.density.info_noise = ConfigDict()  # more often where the data's entropy falls fastest
    config.density.info_noise.num_bins = 100  # bins of ln(sigma / alpha) with a record of losses
    config.density.two_phase = ConfigDict()  # logit-normal first, uniform later
    config.density.two_phase.mean = 0.0  # first phase: mean of logit(u)
    config.density.two_phase.std = 1.0  # first phase: standard deviation of logit(u)
    config.density.two_phase.switch_fraction = 0.4  # fraction of the run in the first phase
    config.density.speed = ConfigDict()  # SpeeD: ddpm only, with its own loss weight
    config.density.speed.tau = 700  # timesteps below tau are drawn k times as often
    config.density.speed.k = 2.0  # see tau
    config.density.speed.lam = 0.6  # loss weights below tau lie between 1 - lam and lam

    config.curriculum = ConfigDict()  # which part of u is open, at which stage
    config.curriculum.enabled = True  # False: all noise levels from the first step on
    config.curriculum.num_clusters = 20  # number of clusters, and of stages
    # clusters of equal width in u: uniform | of equal width in log SNR: snr | given edges: custom
    config.curriculum.spacing = "uniform"
    config.curriculum.edges = ()  # custom: N + 1 numbers in u, from 0 to 1
    # custom: curriculum.json of --mode=difficulty, which gives the edges and the order
    config.curriculum.edges_file = ""
    # order in which clusters open: easy_to_hard | hard_to_easy | random | "3,1,2" (1: the hardest)
    config.curriculum.order = "easy_to_hard"
    config.curriculum.max_fraction = 1.0  # fraction of the run after which every cluster is open
    config.curriculum.pacing = "patience"  # patience | fixed
    config.curriculum.patience = ConfigDict()  # a stage ends when the loss stops improving
    config.curriculum.patience.steps = 200  # steps without improvement that end a stage
    config.curriculum.patience.smoothing = 0.0  # EMA decay of the observed loss; 0: the raw loss
    config.curriculum.patience.min_delta = 0.0  # a smaller decrease is no improvement
    config.curriculum.patience.max_stage_steps = 0  # longest stage in steps; 0: no limit
    config.curriculum.fixed = ConfigDict()  # every stage has the same length
    config.curriculum.fixed.steps_per_stage = 200  # length of a stage in steps

    config.loss = ConfigDict()  # weight of the loss at each noise level
    config.loss.weight = "none"  # none | min_snr | p2 | uncertainty (learned, as in EDM2)
    config.loss.min_snr = ConfigDict()  # min(SNR, gamma) on the squared error of x0
    config.loss.min_snr.gamma = 5.0  # largest weight
    config.loss.p2 = ConfigDict()  # 1 / (k + SNR)^gamma on the squared error of eps
    config.loss.p2.k = 1.0  # see the formula
    config.loss.p2.gamma = 1.0  # see the formula

    config.optim = ConfigDict()  # the optimizer
    config.optim.name = "adamw"  # adamw | adam
    config.optim.lr = 1e-4  # learning rate after the warm-up
    config.optim.schedule = "constant"  # after the warm-up: constant | cosine | rsqrt
    config.optim.warmup = "0 steps"  # duration of the linear warm-up
    config.optim.b1 = 0.9  # Adam's beta 1
    config.optim.b2 = 0.999  # Adam's beta 2
    config.optim.eps = 1e-8  # Adam's epsilon
    config.optim.weight_decay = 0.0  # adamw: weight decay
    config.optim.clip_norm = 0.0  # clip the gradient to this global norm; 0: no clipping

    config.ema = ConfigDict()  # EMAs of the weights; samples use the first by default
    config.ema.decays = (0.9999,)  # decay for each step, one EMA each
    config.ema.half_lives_kimg = ()  # half-lives in thousands of images, with EDM's ramp-up
    # EDM2's power-function EMAs by relative width, such as (0.05, 0.1); sample.ema =
    # "posthoc0.15" combines the kept checkpoints to any other width
    config.ema.power_stds = ()

    config.train = ConfigDict()  # length of the run and its batches
    config.train.duration = "2000 steps"  # length of the run: steps, examples or epochs
    config.train.batch_size = 128  # examples in a step, on all devices together
    config.train.accumulate = 1  # microbatches in a step
    # steps in one compiled program; must divide every interval and the length of the run
    config.train.steps_per_dispatch = 1
    config.train.condition_dropout = 0.1  # fraction trained without label or text, for guidance
    config.train.augment = 0.0  # probability of EDM's augmentation, a conditioning of the network
    config.train.max_bad_steps = 20  # stop after this many steps in a row with NaN or inf

    config.mesh = ConfigDict()  # how devices are used
    config.mesh.data = -1  # data-parallel groups; -1: all devices that fsdp leaves
    config.mesh.fsdp = 1  # devices that share one copy of the weights (FSDP)
    config.mesh.min_shard_size = 2**16  # tensors with fewer elements are replicated

    config.validation = ConfigDict()  # validation loss on held-out images
    config.validation.every = "100 steps"  # interval
    config.validation.images = 64  # held-out images (and noises) for each cluster
    config.validation.clusters = 0  # number of equal intervals of u; 0: the curriculum's clusters

    config.log = ConfigDict()  # metrics
    config.log.every = "50 steps"  # interval
    config.log.tensorboard = True  # also write TensorBoard events, next to metrics.jsonl

    config.profile = ConfigDict()  # traces for TensorBoard or Perfetto
    # (start, stop): trace the steps start to stop - 1 into the folder "profile" of the workdir;
    # empty: no trace
    config.profile.steps = ()

    config.checkpoint = ConfigDict()  # checkpoints of a run
    config.checkpoint.every = "500 steps"  # interval
    config.checkpoint.keep = 3  # number of newest checkpoints to keep
    # also keep checkpoints at multiples of this permanently; 0: none
    config.checkpoint.keep_every = "0 steps"
    # if one cannot be written: continue: log it and train on | stop: exit code 2
    config.checkpoint.on_failure = "continue"

    config.sample = ConfigDict()  # generation of images
    config.sample.every = "500 steps"  # interval of the sample grids in training
    # ancestral | ddim | dpm_solver | heun | euler | euler_maruyama
    config.sample.sampler = "heun"
    config.sample.steps = 50  # sampler steps
    config.sample.guidance = 1.0  # classifier-free guidance scale; 1: none
    config.sample.guidance_interval = (0.0, 1.0)  # noise levels u with guidance
    # guide only the first channels; 0: all; DiT's published samples: 3 of 4
    config.sample.guidance_channels = 0
    config.sample.clip = False  # ddpm: clip the predicted x0 to [-1, 1]; for pixels
    config.sample.sigma_min = 0.002  # edm: smallest sigma
    config.sample.sigma_max = 80.0  # edm: largest sigma
    config.sample.rho = 7.0  # edm: exponent of the sigma grid
    # EMA to sample with: "0.9999", "posthoc0.15" or "raw" (no EMA); empty: the first of `ema`
    config.sample.ema = ""
    config.sample.num = 100  # number of images
    config.sample.classes = ()  # classes, in turn; empty: all
    config.sample.prompts = ()  # prompts, in turn; empty: captions of held-out images
    config.sample.batch_size = 500  # images at a time; for latents about 16 on each device
    config.sample.seed = 0  # of the sampling noise
    config.sample.heun = ConfigDict()  # EDM's churn, for edm only
    config.sample.heun.S_churn = 0.0  # amount of noise; 0: none
    config.sample.heun.S_min = 0.05  # smallest sigma with churn
    config.sample.heun.S_max = 50.0  # largest sigma with churn
    config.sample.heun.S_noise = 1.003  # factor of the noise
    config.sample.ddim = ConfigDict()  # options of DDIM
    config.sample.ddim.eta = 0.0  # 0: deterministic; 1: as much noise as the ancestral sampler
    config.sample.euler_maruyama = ConfigDict()  # options of the SDE sampler
    config.sample.euler_maruyama.last_step = 0.04  # size in t of the last step, without noise

    config.evaluate = ConfigDict()  # distances between generated images and a reference
    config.evaluate.num = 2000  # number of generated images
    config.evaluate.features = "pixels"  # pixels | efficientnet-lite0 | inception (FID)
    # inception: file of its weights; empty: ~/.cache/cdt, downloaded if missing
    config.evaluate.weights = ""
    config.evaluate.batch_size = 64  # images in a batch of the feature network
    config.evaluate.reference = ""  # npz of statistics or images, or a folder; empty: the data
    config.evaluate.reference_cache = ""  # folder of the data's statistics; empty: the workdir
    config.evaluate.samples = ""  # npz or folder to evaluate, instead of generating images
    config.evaluate.every = "0 steps"  # interval in training; 0: never
    config.evaluate.emas = ()  # EMAs to evaluate in training; empty: that of sample.ema

    # --mode=difficulty, on the clusters of `curriculum`
    config.difficulty = ConfigDict()
    config.difficulty.duration = "500 steps"  # training of each cluster's model
    config.difficulty.validations = 25  # points of each loss curve
    config.difficulty.seeds = 3  # models for each cluster
    config.difficulty.side_by_side = False  # True: one model on each device; False: on all devices
    config.difficulty.num_pairs = 100  # relative entropy: pairs of neighbouring noise levels
    config.difficulty.num_draws = 1000  # relative entropy: draws for each pair
    config.difficulty.max_images = 50_000  # use at most this many images, evenly spaced

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
    config.compare.seeds = 3  # runs of each arm
    config.compare.evaluations = 10  # evaluations of each run, evenly spaced

    config.replay = ConfigDict()  # --mode=replay
    config.replay.step = 0  # the step to repeat, from 1 on

    config.compilation_cache = "~/.cache/cdt/xla"  # folder of compiled programs; empty: no cache

    for name, defaults in _added.items():
        section, _, method = name.partition(".")
        config[section][method] = ConfigDict(defaults)
    return config


def added_sections() -> dict[str, dict[str, Any]]:
    """Return the sections of registered methods: "model.mlp" -> its keys with their defaults."""
    return _added


def flatten(config: ConfigDict) -> dict[str, object]:
    """Return {"optim.lr": 1e-4, ...}."""
    flat = {}
    for key, value in config.items():
        if isinstance(value, ConfigDict):
            flat.update({f"{key}.{inner}": v for inner, v in flatten(value).items()})
        else:
            flat[key] = value
    return flat


def has_key(config: ConfigDict, key: str) -> bool:
    """Return whether a config has a key or a section such as "optim.lr" or "optim"."""
    value: Any = config
    for part in key.split("."):
        if not isinstance(value, ConfigDict) or part not in value:
            return False
        value = value[part]
    return True
