"""Emoji at 64x64, by text and class: text to image on one GPU or a few CPU cores.

    npm pack emoji-datasource-google@16.0.0 && tar xzf emoji-datasource-google-16.0.0.tgz
    python -m cdt.data.emoji package
    python -m cdt.data.prepare --source=folder --path=package/img/google/64 --holdout=0.1 \
      --image_size=64 --channels=3 --out=data/emoji64 --license="Noto emoji, Apache-2.0"
    python -m cdt.data.text --data=data/emoji64 --encoder=MINILM --max_length=16
    python -m cdt.data.text --data=data/emoji64 --encoder=MINILM --max_length=16 --split=test
    python -m cdt.main --config=configs/emoji64.py --workdir=runs/emoji64 \
      --config.data.text_encoder=MINILM
    python -m cdt.main --config=configs/emoji64.py --workdir=runs/emoji64 --mode=sample \
      --config.data.text_encoder=MINILM --config.sample.prompts='("red heart", "dog face")'

Data: 3,786 images in ten classes, with their names as captions. MINILM is
sentence-transformers/all-MiniLM-L6-v2 or a folder of it.
Training: a DiT of 12 M parameters with linear flow matching and the curriculum.
Time and Frechet distance to the training images (EfficientNet-Lite0): five minutes on an H200, 71;
`:small`, one hour on a CPU, 208 (docs/results.md).
Variants: `:classes` uses no text. `:smoke` and `:runlocal` as in the other configs.
"""

from cdt.config import default_config
from cdt.variants import chosen, resized


def get_config(variant: str = ""):
    names = chosen(variant, "classes", "small")
    config = default_config()

    config.data.name = "prepared"
    config.data.path = "data/emoji64"
    config.data.image_size = 64
    config.data.channels = 3
    config.data.flip = False  # a mirrored flag or pointing hand is another emoji
    if "classes" not in names:
        config.data.text_encoder = "sentence-transformers/all-MiniLM-L6-v2"

    config.model.patch_size = 4
    config.model.hidden_size = 256
    config.model.depth = 8
    config.model.num_heads = 4
    config.model.num_classes = 10
    config.model.dtype, config.model.unroll = "bfloat16", True

    config.process.name = "flow"

    config.density.name = "logit_normal"  # helps with flow matching, see docs/results.md
    config.curriculum.enabled = True  # False: train on all noise levels from the start
    config.curriculum.num_clusters = 20
    config.curriculum.patience.steps = 20
    config.curriculum.max_fraction = 0.05

    config.optim.lr = 5e-4
    config.optim.schedule = "cosine"
    config.optim.warmup = "500 steps"
    config.optim.clip_norm = 1.0
    # Half-lives start short, so that the first samples do not show the initial weights.
    config.ema.decays, config.ema.half_lives_kimg = (), (90.0, 180.0)

    config.train.duration = "14_000 steps"
    config.train.batch_size = 128

    config.validation.every = "500 steps"
    config.checkpoint.every = "2000 steps"

    config.sample.every = "2000 steps"
    config.sample.sampler = "heun"
    config.sample.steps = 25
    config.sample.guidance = 2.0
    config.sample.batch_size = 100
    config.evaluate.num = 3000
    config.evaluate.features = "efficientnet-lite0"
    if "small" in names:
        config.model.patch_size = 8
        config.model.hidden_size, config.model.depth = 192, 4
        config.model.dtype = "float32"
        # A velocity includes the noise: 192 numbers a patch. A network of 192 features cannot
        # represent it together with the image, but it can represent the image (x0).
        config.process.name, config.process.prediction = "ddpm", "x0"
        config.loss.weight = "min_snr"
        config.density.name = "uniform"
        config.sample.sampler, config.sample.steps = "ddim", 50
        config.curriculum.patience.steps = 5
        config.optim.lr, config.optim.warmup = 1e-3, "200 steps"
        config.ema.half_lives_kimg = (10.0,)
        config.train.duration, config.train.batch_size = "3000 steps", 64
        config.validation.every = "250 steps"
        config.checkpoint.every = config.sample.every = "1000 steps"
        config.evaluate.num = 1000
    return resized(config, names)
