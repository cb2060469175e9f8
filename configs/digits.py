"""Handwritten digits at 8x8, by class: a first run, three minutes on two CPU cores.

    python -m cdt.main --config=configs/digits.py --workdir=runs/digits

Data: the digits of scikit-learn, which are installed with the requirements.
Training: a class-conditional DiT (1.27 M parameters) with linear flow matching and the curriculum.
Expected Frechet distance to the training images, in pixels: 0.17 (measured, docs/benchmarks.md).
Variants: `:smoke` trains for seconds, `:runlocal` takes a few small steps.
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

    # A stage ends when the loss has not improved for 5 steps. After one eighth of the run all
    # clusters are open in any case. Within the open clusters the density is logit-normal, which
    # helps (docs/results.md).
    config.curriculum.enabled = True  # False: train on all noise levels from the start
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
