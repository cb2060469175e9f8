"""Fashion-MNIST at 28x28, by class: DiT with flow matching and the curriculum.

    python -m cdt.main --config=configs/fashion_mnist.py --workdir=runs/fashion_mnist

Data: the gzipped IDX files of Debian's package dataset-fashion-mnist (`apt install
dataset-fashion-mnist`). For other files give --config.data.path=FOLDER.
Training: one and a half hours on one CPU core.
Expected Frechet distance to the test images (EfficientNet-Lite0, 2,000 samples): 31
(docs/results.md).
Variants: `:smoke` trains for seconds on mock data of the same shape. `:runlocal` takes a few small
steps with the real data and network.
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
    config.data.flip = False  # all shoes point to the same side

    config.model.patch_size = 4
    config.model.hidden_size = 128
    config.model.depth = 6
    config.model.num_heads = 4
    config.model.num_classes = 10
    config.model.unroll = True

    config.process.name = "flow"  # or "ddpm" (sampler "ddim" or "ancestral"), or "edm"

    # After one twentieth of the run all clusters are open in any case. Within the open clusters the
    # density is logit-normal, which has the lowest mean on this data (docs/results.md).
    config.curriculum.enabled = True  # False: train on all noise levels from the start
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
