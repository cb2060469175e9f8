"""Your own images at 64x64: a DiT with flow matching on one GPU; `:small` at 32x32 on a CPU.

    python -m cdt.data.prepare --source=folder --path=photos --holdout=0.1 --image_size=64 \
      --channels=3 --out=data/images
    python -m cdt.main --config=configs/images.py --workdir=runs/images

`photos` holds image files of any size. If it has one folder per class, add
--config.model.num_classes=N. For `:small` prepare with --image_size=32. If mirror images are as
good, add --config.data.flip=True.

The default is the network and the schedule of configs/emoji64.py, which takes about five minutes on
an H200 and reaches a Frechet distance of 71 to 3,407 training images (EfficientNet-Lite0,
docs/results.md). docs/tutorial.md helps to choose other sizes. `:smoke` trains for seconds on mock
data of the same form, `:runlocal` tries the real ones on one device.
"""

from cdt.config import default_config
from cdt.variants import chosen, resized


def get_config(variant: str = ""):
    names = chosen(variant, "small")
    config = default_config()

    config.data.name = "prepared"
    config.data.path = "data/images"
    config.data.image_size = 64
    config.data.channels = 3
    config.data.flip = False

    config.model.patch_size = 4
    config.model.hidden_size = 256
    config.model.depth = 8
    config.model.num_heads = 4
    config.model.num_classes = 0  # unconditional
    config.model.dtype, config.model.unroll = "bfloat16", True

    config.process.name = "flow"  # | edm | ddpm

    config.density.name = "logit_normal"
    config.curriculum.enabled = True  # False: ordinary training
    config.curriculum.num_clusters = 20
    config.curriculum.patience.steps = 20
    config.curriculum.max_fraction = 0.125  # every cluster is open after an eighth of the run

    config.optim.lr = 5e-4
    config.optim.schedule = "cosine"
    config.optim.warmup = "500 steps"
    config.optim.clip_norm = 1.0
    config.ema.decays, config.ema.half_lives_kimg = (), (90.0,)  # ramps up with the run

    config.train.duration = "14_000 steps"
    config.train.batch_size = 128

    config.validation.every = "500 steps"
    config.checkpoint.every = "2000 steps"

    config.sample.every = "2000 steps"
    config.sample.sampler = "heun"
    config.sample.steps = 25
    config.sample.batch_size = 100
    config.evaluate.num = 3000
    config.evaluate.features = "efficientnet-lite0"
    if "small" in names:
        config.data.image_size = 32
        config.model.hidden_size, config.model.depth = 192, 4
        config.model.dtype = "float32"
        # In a short run a network that predicts the image draws coherent shapes sooner than one
        # that predicts the velocity (docs/results.md).
        config.process.name, config.process.prediction = "ddpm", "x0"
        config.loss.weight = "min_snr"
        config.density.name = "uniform"
        config.curriculum.patience.steps = 5
        config.optim.lr, config.optim.warmup = 1e-3, "200 steps"
        config.ema.half_lives_kimg = (5.0,)
        config.train.duration, config.train.batch_size = "3000 steps", 32
        config.validation.every = config.sample.every = config.checkpoint.every = "300 steps"
        config.sample.sampler, config.sample.steps = "ddim", 25
        config.evaluate.num = 1000
    return resized(config, names)
