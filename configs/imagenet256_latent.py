"""ImageNet at 256x256 in the latents of Stable Diffusion's autoencoder: DiT-XL/2 or SiT-XL/2.

    python -m cdt.data.prepare --source=folder --path=IMAGENET --image_size=256 --channels=3 \
      --upscale --out=data/imagenet256
    python -m cdt.data.prepare --source=folder --path=IMAGENET --split=val --image_size=256 \
      --channels=3 --upscale --out=data/imagenet256
    python -m cdt.data.latents --config=configs/imagenet256_latent.py:images \
      --workdir=data/imagenet256_latent
    python -m cdt.main --config=configs/imagenet256_latent.py --workdir=gs://BUCKET/imagenet256 \
      --config.evaluate.reference=VIRTUAL_imagenet256_labeled.npz

Data: the folder IMAGENET has train/CLASS/*.JPEG and val/CLASS/*.JPEG (image-net.org). The reference
statistics are those of ADM. The autoencoder is sd-vae-ft-ema (Hugging Face hub), expected in
data/sd-vae-ft-ema.
Training: settings of DiT (Peebles & Xie 2023). Meant for 32 or more accelerators; the time was not
measured.
Published FID of DiT: 19.5 (XL/2) and 43.5 (B/2) after 400,000 steps without guidance; 2.27 (XL/2)
after 7 million steps with --config.sample.guidance=1.5 --config.sample.guidance_channels=3.
Published FID of SiT with its SDE sampler: 33.0 (B/2) after 400,000 steps, 2.06 (XL/2) at the end.
Variants: `:S`, `:B`, `:L` and `:XL` choose the size. `:sit` is SiT (Ma et al. 2024), also with a
size: `:sit,B`. `:images` is for cdt.data.latents. `:smoke` and `:runlocal` as in the other configs.
"""

from cdt.config import default_config
from cdt.variants import chosen, resized


def get_config(variant: str = ""):
    names = chosen(variant, "images", "sit", "S", "B", "L", "XL")
    config = default_config()

    config.data.name = "latents"
    config.data.path = "data/imagenet256_latent"
    config.data.image_size = 32
    config.data.channels = 4
    config.data.flip = True
    config.latents.weights = "data/sd-vae-ft-ema/diffusion_pytorch_model.safetensors"
    if "images" in names:  # the images to encode
        config.data.name, config.data.path = "prepared", "data/imagenet256"
        config.data.image_size, config.data.channels = 256, 3
        config.data.test_split = "val"

    config.model.size = next((name for name in names if name in ("S", "B", "L")), "XL") + "/2"
    config.model.num_classes = 1000
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
    config.validation.images = 256
    config.log.every = "100 steps"
    config.checkpoint.every = "10_000 steps"

    config.sample.every = "10_000 steps"
    config.sample.sampler = "ancestral"
    config.sample.steps = 250
    config.sample.batch_size = 64
    config.evaluate.num = 50_000
    config.evaluate.features = "inception"

    if "sit" in names:
        config.process.name, config.process.learn_variance = "flow", False
        config.sample.sampler = "euler_maruyama"
    return resized(config, names)
