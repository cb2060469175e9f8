"""COCO at 256x256, text to image, in the latents of Stable Diffusion's autoencoder.

    python -m cdt.data.prepare --source=folder --path=COCO --image_size=256 --channels=3 \
      --upscale --out=data/coco256                  # and again with --split=test
    python -m cdt.data.latents --config=configs/coco256_latent.py:images \
      --workdir=data/coco256_latent
    python -m cdt.data.text --data=data/coco256 --out=data/coco256_latent \
      --encoder=openai/clip-vit-large-patch14       # and again with --split=test
    python -m cdt.main --config=configs/coco256_latent.py --workdir=runs/coco256 \
      --config.evaluate.reference=COCO256_STATISTICS.npz

Data: the folder COCO has the 2014 images (cocodataset.org): train/ (train2014) and test/ (val2014).
Each has a captions.jsonl with lines {"file_name": ..., "caption": [...]}, the five captions of an
image; each epoch draws one. The autoencoder is sd-vae-ft-ema (Hugging Face hub), expected in
data/sd-vae-ft-ema.
Training: DiT-B/2 with cross-attention to the states of CLIP ViT-L/14. Meant for 8 accelerators;
the time was not measured.
Expected FID: unknown for this network. Evaluation as for U-ViT (Bao et al. 2023): 30,000 samples of
held-out captions, here the first caption of each image. U-ViT-S/2 has 5.95.
Variants: `:images` is for cdt.data.latents. `:smoke` trains for seconds on mock data of the same
shape. `:runlocal` takes a few small steps with the real data and network on one device.
"""

from cdt.config import default_config
from cdt.variants import chosen, resized


def get_config(variant: str = ""):
    names = chosen(variant, "images")
    config = default_config()

    config.data.name = "latents"
    config.data.path = "data/coco256_latent"
    config.data.image_size = 32
    config.data.channels = 4
    config.data.flip = True
    config.data.text_encoder = "openai/clip-vit-large-patch14"
    config.latents.weights = "data/sd-vae-ft-ema/diffusion_pytorch_model.safetensors"
    config.latents.scale = 0.23010  # as in U-ViT on COCO
    if "images" in names:  # the images to encode
        config.data.name, config.data.path = "prepared", "data/coco256"
        config.data.image_size, config.data.channels = 256, 3
        config.data.text_encoder = ""

    config.model.size = "B/2"
    config.model.dtype = "bfloat16"

    config.process.name = "flow"

    config.density.name = "logit_normal"  # helps with flow matching, see docs/results.md
    config.curriculum.enabled = True  # False: train on all noise levels from the start
    config.curriculum.num_clusters = 20
    config.curriculum.patience.steps = 200

    config.optim.lr = 2e-4
    config.optim.warmup = "5000 steps"
    config.optim.weight_decay = 0.03
    config.ema.decays = (0.9999,)

    config.train.duration = "1_000_000 steps"
    config.train.batch_size = 256

    config.validation.every = "5000 steps"
    config.log.every = "100 steps"
    config.checkpoint.every = "10_000 steps"

    config.sample.every = "10_000 steps"
    config.sample.sampler = "heun"
    config.sample.steps = 25  # 49 evaluations of the network
    config.sample.guidance = 2.0
    config.sample.batch_size = 64
    config.evaluate.num = 30_000
    config.evaluate.features = "inception"
    return resized(config, names)
