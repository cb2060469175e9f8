"""FFHQ at 256x256 in the latents of Stable Diffusion's autoencoder: DiT-B/2, unconditional.

    python -m cdt.data.prepare --source=folder --path=FFHQ --holdout=0.05 --image_size=256 \
      --channels=3 --out=data/ffhq256
    python -m cdt.data.latents --config=configs/ffhq256_latent.py:images \
      --workdir=data/ffhq256_latent
    python -m cdt.main --config=configs/ffhq256_latent.py --workdir=runs/ffhq256_latent \
      --config.evaluate.reference=FFHQ256_STATISTICS.npz

Data: the folder FFHQ has the images of github.com/NVlabs/ffhq-dataset. The autoencoder is
sd-vae-ft-ema (Hugging Face hub), expected in data/sd-vae-ft-ema (config.latents.weights).
Training: DDPM with the settings of DiT and a learned variance. Meant for 8 accelerators; the time
was not measured.
Expected FID: unknown for this network.
Variants: `:images` is for cdt.data.latents. `:smoke` trains for seconds on mock data of the same
shape. `:runlocal` takes a few small steps with the real data and network on one device.
"""

from cdt.config import default_config
from cdt.variants import chosen, resized


def get_config(variant: str = ""):
    names = chosen(variant, "images")
    config = default_config()

    config.data.name = "latents"
    config.data.path = "data/ffhq256_latent"
    config.data.image_size = 32
    config.data.channels = 4
    config.data.flip = True
    config.latents.weights = "data/sd-vae-ft-ema/diffusion_pytorch_model.safetensors"
    if "images" in names:  # the images to encode
        config.data.name, config.data.path = "prepared", "data/ffhq256"
        config.data.image_size, config.data.channels = 256, 3

    config.model.size = "B/2"
    config.model.dtype = "bfloat16"

    config.process.name = "ddpm"
    config.process.learn_variance = True

    config.curriculum.enabled = True  # False: train on all noise levels from the start
    config.curriculum.num_clusters = 20
    config.curriculum.patience.steps = 200

    config.optim.lr = 1e-4
    config.ema.decays = (0.9999,)

    config.train.duration = "400_000 steps"
    config.train.batch_size = 256

    config.validation.every = "5000 steps"
    config.log.every = "100 steps"
    config.checkpoint.every = "10_000 steps"

    config.sample.every = "10_000 steps"
    config.sample.sampler = "ancestral"
    config.sample.steps = 250
    config.sample.batch_size = 64
    config.evaluate.num = 50_000
    config.evaluate.features = "inception"
    return resized(config, names)
