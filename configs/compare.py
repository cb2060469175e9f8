"""Comparison of the curriculum with other methods, under equal conditions (docs/results.md).

    python -m cdt.main --mode=compare --config=configs/compare.py:digits,flow --workdir=runs/compare

Variants: `:DATA,FAMILY` with DATA digits or fashion_mnist (see configs/fashion_mnist.py) and FAMILY
flow or ddpm has the arms of docs/results.md. `:DATA,FAMILY,sift` has more arms and another seed; it
selected those arms. `:DATA,FAMILY,peers` has SpeeD and task routing (DTR). The arms `measured` need
a difficulty study in runs/study_DATA_FAMILY.
Training: a small DiT at a constant learning rate, two to three minutes a run on one CPU core. Runs
end while the distance still falls: after all arms have converged, "sooner" cannot be measured.
"""

from cdt.config import check_variant, default_config

# Selected by `sift`: the curriculum of the paper, the reverse order, and the best other arms.
ARMS = (
    "uniform: curriculum.enabled=False",
    "curriculum: curriculum.enabled=True",
    "hard_to_easy: curriculum.order=hard_to_easy",
    "logit_normal: curriculum.enabled=False density.name=logit_normal",
    "info_noise: curriculum.enabled=False density.name=info_noise",
    "min_snr: curriculum.enabled=False loss.weight=min_snr",
    "curriculum+min_snr: loss.weight=min_snr",
    "curriculum+logit_normal: density.name=logit_normal",
)
# tau is the patience in steps; a stage lasts about 2 * tau steps.
SIFT = (
    "uniform: curriculum.enabled=False",
    "tau_2: curriculum.patience.steps=2 curriculum.max_fraction=0.05",
    "tau_5: curriculum.patience.steps=5 curriculum.max_fraction=0.125",
    "tau_20: curriculum.patience.steps=20 curriculum.max_fraction=0.5",
    "tau_20_smooth: curriculum.patience.steps=20 curriculum.max_fraction=0.5 "
    "curriculum.patience.smoothing=0.9",
    "tau_50: curriculum.patience.steps=50 curriculum.max_fraction=0.8",
    "hard_to_easy: curriculum.order=hard_to_easy",
    "two_phase: curriculum.enabled=False density.name=two_phase",
    "logit_normal: curriculum.enabled=False density.name=logit_normal",
    "info_noise: curriculum.enabled=False density.name=info_noise",
    "min_snr: curriculum.enabled=False loss.weight=min_snr",
    "curriculum+min_snr: loss.weight=min_snr",
    "curriculum+logit_normal: density.name=logit_normal",
    "curriculum+info_noise: density.name=info_noise",
    "tau_5_snr: curriculum.spacing=snr",
)
# In addition to the arms `uniform` and `curriculum`.
ROUTE = "model.routing=True"
ROUTING = (f"routing: curriculum.enabled=False {ROUTE}", f"curriculum+routing: {ROUTE}")
PEERS = {"flow": ROUTING, "ddpm": (*ROUTING, "speed: curriculum.enabled=False density.name=speed")}
# Clusters fitted to the difficulty that a study measured on this data.
EDGES = "curriculum.edges_file=runs/study_{data}_{family}/difficulty/curriculum.json"
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
    config.curriculum.enabled = True
    config.curriculum.num_clusters = 20
    config.curriculum.patience.steps, config.curriculum.max_fraction = 5, 0.125

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
