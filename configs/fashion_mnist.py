"""Fashion-MNIST: class-conditional DiT on 28x28 grey images, flow matching, the curriculum on.

    python -m cdt.main --config=configs/fashion_mnist.py --workdir=runs/fashion_mnist

reads the gzipped IDX files that Debian's package dataset-fashion-mnist installs
(`apt install dataset-fashion-mnist`); for files elsewhere give --config.data.path. `:smoke` trains
for seconds on mock data of the same form. One CPU core takes an hour and a half; expected Frechet
distance to the test images in EfficientNet-Lite0's features: 31 (n = 2,000, docs/results.md).
"""

from cdt.config import default_config
from cdt.variants import chosen, resized


def get_config(variant: str = ""):
    names = chosen(variant)
    config = default_config()
    config.data.name = "idx"
    config.data.path = "/usr/share/datasets/fashion-mnist"
    config.data.image_size = 28
    config.data.channels = 1
    config.data.class_names = (
        "T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag",
        "Ankle boot",
    )  # fmt: skip
    config.data.flip = False  # shoes point one way

    config.model.patch_size = 4
    config.model.hidden_size = 128
    config.model.depth = 6
    config.model.num_heads = 4
    config.model.num_classes = 10
    config.model.unroll = True

    config.process.name = "flow"  # or "ddpm" (sampler "ddim" or "ancestral"), or "edm"

    # Stages take the first twentieth of the run at most; enabled = False: no stages.
    # What is open is drawn logit-normally: the lowest mean of docs/results.md on these data.
    config.curriculum.enabled = True
    config.density.name = "logit_normal"
    config.curriculum.num_clusters = 20
    config.curriculum.patience.steps = 5
    config.curriculum.max_fraction = 0.05

    config.optim.lr = 1e-3
    config.optim.schedule = "cosine"
    config.optim.warmup = "100 steps"
    config.optim.clip_norm = 1.0
    config.ema.decays = (0.999, 0.99)

    config.train.duration = "10_000 steps"
    config.train.batch_size = 64
    config.validation.every = "500 steps"
    config.sample.every = "1000 steps"
    config.checkpoint.every = "1000 steps"

    config.sample.sampler = "heun"
    config.sample.steps = 25
    config.sample.num = 100
    config.evaluate.features = "efficientnet-lite0"
    return resized(config, names)
