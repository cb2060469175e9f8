"""ImageNet at 64x64, class-conditional, in pixels.

    python -m cdt.main --config=configs/imagenet64.py --workdir=gs://BUCKET/imagenet64

The data set is TFDS's imagenet_resized/64x64, prepared as ArrayRecord (in $TFDS_DATA_DIR, where
that is set); where it is missing, the command above says how to prepare it.

DiT-B/4 with EDM and the curriculum at its paper's scale: 20 clusters, patience 200. Hardware and
hours: meant for 8 accelerators; not measured yet. Expected score: none known for this network. The
images are those of TFDS, which are not resized as ADM's are, so Frechet distances compare only
with statistics of the same images. `:smoke` trains for seconds on mock data of the same form.
"""

from cdt.config import check_variant, default_config


def get_config(variant: str = ""):
    check_variant(variant, "smoke")
    config = default_config()

    config.data.name = "tfds"
    config.data.path = "imagenet_resized/64x64"
    config.data.test_split = "validation"
    config.data.image_size = 64
    config.data.channels = 3
    config.data.flip = True

    config.model.size = "B/4"
    config.model.num_classes = 1000
    config.model.dtype = "bfloat16"

    config.process.name = "edm"  # ln sigma ~ N(-1.2, 1.2^2), sigma_data 0.5

    config.timesteps.name = "curriculum"  # or "uniform"
    config.timesteps.num_clusters = 20
    config.timesteps.patience = 200

    config.optim.name = "adamw"
    config.optim.lr = 1e-4
    config.optim.warmup = "10_000_000 examples"
    config.ema.decays = (0.9999,)

    config.train.duration = "400_000 steps"
    config.train.batch_size = 256
    config.train.condition_dropout = 0.1

    config.validation.every = "5000 steps"
    config.validation.images = 256
    config.log.every = "100 steps"
    config.checkpoint.every = "10_000 steps"

    config.sample.every = "10_000 steps"
    config.sample.sampler = "heun"
    config.sample.steps = 18
    config.sample.batch_size = 256

    if variant == "smoke":
        config.data.name = "mock"
        config.model.size = ""
        config.model.patch_size = 8
        config.model.hidden_size = 64
        config.model.depth = 2
        config.model.dtype = "float32"
        config.timesteps.num_clusters = 4
        config.optim.warmup = "4 steps"
        config.train.duration = "12 steps"
        config.train.batch_size = 16
        config.validation.every = "6 steps"
        config.validation.images = 8
        config.log.every = "3 steps"
        config.log.tensorboard = False
        config.checkpoint.every = "6 steps"
        config.sample.every = "6 steps"
        config.sample.steps = 2
        config.sample.num = 8
        config.evaluate.num = 32
    return config
