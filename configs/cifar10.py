"""CIFAR-10 at 32x32: DDPM++ with EDM and the curriculum, unconditional.

    python -m cdt.main --config=configs/cifar10.py --workdir=runs/cifar10

Data: cifar10 of TFDS, prepared as ArrayRecord. If it is missing, the command prints how to prepare
it.
Training: settings of EDM (Karras et al. 2022, table 7), 200 million images, about 2 days on 8 V100.
Expected FID: 1.97, or 1.79 with --config.model.num_classes=10 (published, the best of three
evaluations).
Variants: `:dit` is DiT-S/2 with linear flow matching. `:smoke` trains for seconds on mock data of
the same shape. `:runlocal` takes a few small steps with the real data and network on one device.
"""

from cdt.config import default_config
from cdt.variants import chosen, resized


def get_config(variant: str = ""):
    names = chosen(variant, "dit")
    config = default_config()

    config.data.name = "tfds"
    config.data.path = "cifar10"
    config.data.image_size = 32
    config.data.channels = 3
    config.data.flip = False  # the augmentation mirrors images and conditions the network on it
    config.train.augment = 0.12

    config.model.name = "ddpmpp"
    config.model.size = "cifar10"
    config.model.num_classes = 0  # 10: class-conditional
    config.train.condition_dropout = 0.0  # as in EDM; set 0.1 to sample with guidance

    config.process.name = "edm"

    config.curriculum.enabled = True  # False: train on all noise levels from the start
    config.curriculum.num_clusters = 20
    config.curriculum.patience.steps = 200

    config.optim.name = "adam"
    config.optim.lr = 1e-3
    config.optim.warmup = "10_000_000 examples"
    config.ema.decays = ()
    config.ema.half_lives_kimg = (500.0,)

    config.train.duration = "200_000_000 examples"
    config.train.batch_size = 512

    config.validation.every = "1000 steps"
    config.log.every = "100 steps"
    config.checkpoint.every = "5000 steps"

    config.sample.every = "5000 steps"
    config.sample.sampler = "heun"
    config.sample.steps = 18  # 35 evaluations of the network
    config.evaluate.num = 50_000
    config.evaluate.features = "inception"

    if "dit" in names:
        config.data.flip, config.train.augment = True, 0.0
        config.model.name, config.model.size = "dit", "S/2"
        config.process.name = "flow"
        config.optim.name, config.optim.lr, config.optim.warmup = "adamw", 2e-4, "1000 steps"
        config.ema.decays, config.ema.half_lives_kimg = (0.9999,), ()
        config.train.duration, config.train.batch_size = "400_000 steps", 256
        config.sample.steps = 25
    return resized(config, names)
