"""FFHQ at 64x64: DDPM++ with EDM and the curriculum, unconditional.

    python -m cdt.data.prepare --source=folder --path=FFHQ --holdout=0.05 --image_size=64 \
      --channels=3 --out=data/ffhq64
    python -m cdt.main --config=configs/ffhq64.py --workdir=runs/ffhq64

Data: the folder FFHQ has the images of github.com/NVlabs/ffhq-dataset, 128 pixels or larger.
Training: settings of EDM (Karras et al. 2022, table 7), 200 million images, about 4 days on 8 V100.
Expected FID: 2.39 (published, on images that EDM's own script resized).
Variants: `:smoke` trains for seconds on mock data of the same shape. `:runlocal` takes a few small
steps with the real data and network on one device.
"""

from cdt.config import default_config
from cdt.variants import chosen, resized


def get_config(variant: str = ""):
    names = chosen(variant)
    config = default_config()

    config.data.name = "prepared"
    config.data.path = "data/ffhq64"
    config.data.image_size = 64
    config.data.channels = 3
    config.data.flip = False  # the augmentation mirrors images and conditions the network on it
    config.train.augment = 0.15

    config.model.name = "ddpmpp"
    config.model.size = "ffhq64"

    config.process.name = "edm"

    config.curriculum.enabled = True  # False: train on all noise levels from the start
    config.curriculum.num_clusters = 20
    config.curriculum.patience.steps = 200

    config.optim.name = "adam"
    config.optim.lr = 2e-4
    config.optim.warmup = "10_000_000 examples"
    config.ema.decays = ()
    config.ema.half_lives_kimg = (500.0,)

    config.train.duration = "200_000_000 examples"
    config.train.batch_size = 256

    config.validation.every = "2000 steps"
    config.log.every = "100 steps"
    config.checkpoint.every = "10_000 steps"

    config.sample.every = "10_000 steps"
    config.sample.sampler = "heun"
    config.sample.steps = 40  # 79 evaluations of the network
    config.sample.batch_size = 256
    config.evaluate.num = 50_000
    config.evaluate.features = "inception"
    return resized(config, names)
