"""ImageNet at 64x64, by class, in pixels: ADM with EDM and the curriculum.

    python -m cdt.main --config=configs/imagenet64.py --workdir=gs://BUCKET/imagenet64

Data: imagenet_resized/64x64 of TFDS, prepared as ArrayRecord in $TFDS_DATA_DIR or TFDS's default
folder. If it is missing, the command prints how to prepare it.
Training: settings of EDM (Karras et al. 2022, table 7), 2,500 million images, about 13 days on 32
A100. Give --config.train.duration for a shorter run.
Expected FID: 1.36 with EDM's stochastic sampler, the default here (published, on images of ADM).
TFDS resizes the images in another way, so use reference statistics of the same images.
Variants: `:dit` is DiT-B/4 with batch size 256 for 400,000 steps; its FID is unknown. `:smoke`
trains for seconds on mock data of the same shape. `:runlocal` takes a few small steps with the real
data and network on one device.
"""

from cdt.config import default_config
from cdt.variants import chosen, resized


def get_config(variant: str = ""):
    names = chosen(variant, "dit")
    config = default_config()

    config.data.name = "tfds"
    config.data.path = "imagenet_resized/64x64"
    config.data.test_split = "validation"
    config.data.image_size = 64
    config.data.channels = 3
    config.data.flip = True

    config.model.name = "adm"
    config.model.size = "imagenet64"
    config.model.num_classes = 1000
    config.model.dtype = "bfloat16"
    config.train.condition_dropout = 0.0  # as in EDM; set 0.1 to sample with guidance

    config.process.name = "edm"  # ln sigma ~ N(-1.2, 1.2^2), sigma_data 0.5

    config.curriculum.enabled = True  # False: train on all noise levels from the start
    config.curriculum.num_clusters = 20
    config.curriculum.patience.steps = 200

    config.optim.name = "adam"
    config.optim.lr = 1e-4
    config.optim.warmup = "10_000_000 examples"
    config.ema.decays = ()
    config.ema.half_lives_kimg = (50_000.0,)

    config.train.duration = "2_500_000_000 examples"
    config.train.batch_size = 4096

    config.validation.every = "5000 steps"
    config.validation.images = 256
    config.log.every = "100 steps"
    config.checkpoint.every = "10_000 steps"

    config.sample.every = "10_000 steps"
    config.sample.sampler = "heun"
    config.sample.steps = 256
    config.sample.heun.S_churn = 40.0
    config.sample.heun.S_min = 0.05
    config.sample.heun.S_max = 50.0
    config.sample.heun.S_noise = 1.003
    config.sample.batch_size = 256
    config.evaluate.num = 50_000
    config.evaluate.features = "inception"

    if "dit" in names:
        config.model.name, config.model.size = "dit", "B/4"
        config.train.condition_dropout = 0.1
        config.optim.name = "adamw"
        config.ema.decays, config.ema.half_lives_kimg = (0.9999,), ()
        config.train.duration, config.train.batch_size = "400_000 steps", 256
        config.sample.steps, config.sample.heun.S_churn = 18, 0.0
    return resized(config, names)
