"""Handwritten digits, 8x8: the whole program in minutes on two CPU cores.

    python -m cdt.main --config=configs/digits.py --workdir=runs/digits

A class-conditional DiT (1.27 M parameters) with linear flow matching and the curriculum. Two CPU
cores, about three minutes. Expected pixel Frechet distance to the training images: 0.3 (measured,
docs/benchmarks.md). `:smoke` is the seconds-long version.
"""

from cdt.config import check_variant, default_config


def get_config(variant: str = ""):
    check_variant(variant, "smoke")
    config = default_config()

    config.data.name = "digits"
    config.data.image_size = 8
    config.data.channels = 1

    config.model.patch_size = 2
    config.model.hidden_size = 128
    config.model.depth = 4
    config.model.num_heads = 4
    config.model.num_classes = 10
    config.model.unroll = True  # four blocks compile quickly and run faster unrolled

    config.process.name = "flow"  # or "ddpm" (sampler "ddim" or "ancestral"), or "edm"

    # Stages last until the loss has not improved for 5 steps, the first eighth of the run at most:
    # at the paper's scale too they take a few per cent of training. "uniform" switches it off.
    config.timesteps.name = "curriculum"
    config.timesteps.num_clusters = 20
    config.timesteps.patience = 5
    config.timesteps.max_share = 0.125

    config.optim.lr = 1e-3
    config.optim.schedule = "cosine"
    config.optim.warmup = "100 steps"
    config.optim.clip_norm = 1.0
    config.ema.decays = (0.995, 0.98)

    config.train.duration = "2000 steps"
    config.train.batch_size = 64

    config.sample.sampler = "heun"
    config.sample.steps = 25
    config.sample.num = 100

    if variant == "smoke":
        config.model.hidden_size = 32
        config.model.depth = 2
        config.timesteps.num_clusters = 4
        config.train.duration = "24 steps"
        config.train.batch_size = 32
        config.optim.warmup = "4 steps"
        config.validation.every = "12 steps"
        config.validation.images = 16
        config.log.every = "6 steps"
        config.log.tensorboard = False
        config.checkpoint.every = "12 steps"
        config.sample.every = "12 steps"
        config.sample.steps = 4
        config.sample.num = 20
        config.evaluate.num = 100
        config.difficulty.duration = "12 steps"
        config.difficulty.validations = 4
        config.difficulty.seeds = 1
        config.difficulty.num_pairs = 10
        config.difficulty.num_draws = 50
    return config
