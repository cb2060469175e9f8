"""The curriculum against its peers, under equal conditions.

    python -m cdt.main --mode=compare --config=configs/compare.py:digits,flow --workdir=runs/compare

`:DATA,FAMILY` with digits or fashion_mnist (see configs/fashion_mnist.py), flow or ddpm: the arms
that docs/results.md reports, with seeds that chose nothing. `:DATA,FAMILY,sift` looks over many
arms with one other seed, `:DATA,FAMILY,peers` has SpeeD and task routing (DTR). The arms
`measured` need the curriculum of a difficulty study, in runs/study_DATA_FAMILY.

A small DiT at a constant learning rate, stopped while the distance still falls: where every arm
has converged there is no "sooner" to measure. A run takes two to three minutes on one CPU core.
"""

from cdt.config import check_variant, default_config

# What the sift left: the paper's curriculum, the order turned round, and the best of the rest.
ARMS = (
    "uniform: timesteps.name=uniform",
    "curriculum: timesteps.name=curriculum",
    "hard_to_easy: timesteps.order=hard_to_easy",
    "logit_normal: timesteps.name=logit_normal",
    "info_noise: timesteps.name=info_noise",
    "min_snr: timesteps.name=uniform loss.weight=min_snr",
    "curriculum+min_snr: loss.weight=min_snr",
    "curriculum+logit_normal: timesteps.density=logit_normal",
)
# tau is the patience in steps; a stage lasts about twice that.
SIFT = (
    "uniform: timesteps.name=uniform",
    "tau_2: timesteps.patience=2 timesteps.max_share=0.05",
    "tau_5: timesteps.patience=5 timesteps.max_share=0.125",
    "tau_20: timesteps.patience=20 timesteps.max_share=0.5",
    "tau_20_smooth: timesteps.patience=20 timesteps.max_share=0.5 timesteps.smoothing=0.9",
    "tau_50: timesteps.patience=50 timesteps.max_share=0.8",
    "hard_to_easy: timesteps.order=hard_to_easy",
    "two_phase: timesteps.name=two_phase",
    "logit_normal: timesteps.name=logit_normal",
    "info_noise: timesteps.name=info_noise",
    "min_snr: timesteps.name=uniform loss.weight=min_snr",
    "curriculum+min_snr: loss.weight=min_snr",
    "curriculum+logit_normal: timesteps.density=logit_normal",
    "curriculum+info_noise: timesteps.density=info_noise",
    "tau_5_snr: timesteps.clusters=snr",
)
# Beside uniform sampling and the curriculum.
ROUTE = "model.routing=True"
ROUTING = (f"routing: timesteps.name=uniform {ROUTE}", f"curriculum+routing: {ROUTE}")
PEERS = {"flow": ROUTING, "ddpm": (*ROUTING, "speed: timesteps.name=speed")}
# Clusters fitted to the difficulty that a study measured.
EDGES = "timesteps.edges_file=runs/study_{data}_{family}/difficulty/curriculum.json"
MEASURED = (f"measured: {EDGES}", f"measured+min_snr: {EDGES} loss.weight=min_snr")


def get_config(variant: str = "digits,flow"):
    known = [f"{d},{f}" for d in ("digits", "fashion_mnist") for f in ("flow", "ddpm")]
    check_variant(variant, *(name + arms for name in known for arms in ("", ",sift", ",peers")))
    data, family, arms = (variant + ",").split(",")[:3]
    config = default_config()
    if data == "digits":
        config.data.name, config.data.image_size = "digits", 8
        config.model.patch_size = 2
    else:
        config.data.name, config.data.image_size = "idx", 28
        config.data.path = "/usr/share/datasets/fashion-mnist"
        config.model.patch_size = 7
    config.model.hidden_size, config.model.depth, config.model.num_heads = 64, 4, 4
    config.model.num_classes, config.model.unroll = 10, True

    config.process.name = family
    config.timesteps.name = "curriculum"
    config.timesteps.num_clusters = 20
    config.timesteps.patience = 5
    config.timesteps.max_share = 0.125

    config.optim.lr, config.optim.warmup, config.optim.clip_norm = 1e-3, "100 steps", 1.0
    config.ema.decays = (0.995,)

    config.train.duration, config.train.batch_size = "2000 steps", 64
    config.validation.every = "100 steps"
    config.checkpoint.every, config.checkpoint.keep = "1000 steps", 1
    config.sample.every, config.log.tensorboard = "2000 steps", False

    config.sample.sampler, config.sample.steps = ("heun", 10) if family == "flow" else ("ddim", 20)
    config.evaluate.num = 1000
    config.compare.evaluations = 5 if arms == "sift" else 8
    config.compare.seeds, config.seed = (1, 0) if arms == "sift" else (4, 100)
    measured = tuple(arm.format(data=data, family=family) for arm in MEASURED)
    peers = ARMS[:2] + PEERS[family]
    config.compare.arms = {"": ARMS + measured, "sift": SIFT + measured, "peers": peers}[arms]
    return config
