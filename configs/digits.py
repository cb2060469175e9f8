"""Handwritten digits, 8x8: the whole program in minutes on two CPU cores.

    python -m cdt.main --config=configs/digits.py --workdir=runs/digits

A class-conditional DiT (1.27 M parameters) with linear flow matching and the curriculum. Two CPU
cores, about three minutes. Expected pixel Frechet distance to the training images: 0.17 (measured,
docs/benchmarks.md). `:smoke` is the seconds-long version, `:runlocal` takes a few small steps.
"""

from cdt.config import default_config
from cdt.variants import chosen, resized


def get_config(variant: str = ""):
    names = chosen(variant)
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
    # at the paper's scale too they take a few per cent of training. enabled = False: no stages.
    # What is open is drawn logit-normally, which docs/results.md found to help.
    config.curriculum.enabled = True
    config.density.name = "logit_normal"
    config.curriculum.num_clusters = 20
    config.curriculum.patience.steps = 5
    config.curriculum.max_fraction = 0.125

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
    return resized(config, names)
