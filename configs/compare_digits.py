"""Ways of training on the digits, compared under equal conditions.

    python -m cdt.main --mode=compare --config=configs/compare_digits.py:flow --workdir=runs/compare

`:flow` and `:ddpm` compare the curriculum with its peers over five seeds; `:sift_flow` and
`:sift_ddpm` look over many arms with one seed, to choose what is worth comparing; their arm
`measured` needs a difficulty study in runs/study_flow or runs/study_ddpm. A small DiT with a
constant learning rate, stopped while the distance still falls: where every arm has converged there
is no "sooner" to measure. On one CPU core a run takes about two minutes.
"""

from cdt.config import check_variant, default_config

# The names of the arms say tau, the patience in steps; stages last about twice that.
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
    "curriculum+info_noise: timesteps.density=info_noise",
    "measured: timesteps.edges_file=runs/study_{family}/difficulty/curriculum.json",
)


def get_config(variant: str = "flow"):
    check_variant(variant, "flow", "ddpm", "sift_flow", "sift_ddpm")
    config = default_config()
    config.data.name = "digits"
    config.data.image_size = 8
    config.data.channels = 1

    config.model.patch_size = 2
    config.model.hidden_size = 64
    config.model.depth = 4
    config.model.num_heads = 4
    config.model.num_classes = 10
    config.model.unroll = True

    config.timesteps.name = "curriculum"
    config.timesteps.num_clusters = 20
    config.timesteps.patience = 5
    config.timesteps.max_share = 0.125

    config.optim.lr = 1e-3
    config.optim.warmup = "100 steps"
    config.optim.clip_norm = 1.0
    config.ema.decays = (0.995,)

    config.train.duration = "2000 steps"
    config.train.batch_size = 64
    config.validation.every = "100 steps"
    config.checkpoint.every = "1000 steps"
    config.checkpoint.keep = 1
    config.sample.every = "2000 steps"
    config.log.tensorboard = False

    config.process.name = variant.removeprefix("sift_")
    if config.process.name == "flow":
        config.sample.sampler, config.sample.steps = "heun", 10
    else:
        config.sample.sampler, config.sample.steps = "ddim", 20
    config.evaluate.num = 1000
    config.compare.seeds = 1
    config.compare.arms = tuple(arm.format(family=config.process.name) for arm in SIFT)
    return config
