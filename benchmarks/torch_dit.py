"""The train step of the same DiT in PyTorch: diffusers' DiTTransformer2DModel, AdamW, one EMA."""

from collections.abc import Callable

import torch
from diffusers import DiTTransformer2DModel
from diffusers.models.normalization import AdaLayerNormZero
from ml_collections import ConfigDict

from benchmarks.cases import first_batch


class SharedEmbedding(torch.nn.Module):
    """Replaces the embedding that diffusers computes in each block; it is computed once a step."""

    def __init__(self, embedding: torch.nn.Module):
        super().__init__()
        self.embedding, self.value = embedding, None

    def forward(self, timestep, class_labels, hidden_dtype=None):
        return self.value


def torch_step(
    config: ConfigDict, device: str = "cpu", bfloat16: bool = False, compiled: bool = False
) -> tuple[Callable[[], torch.Tensor], int]:
    """Return (function that runs one train step and returns its loss, number of parameters).

    Args:
      config: of a DiT with flow matching, from `case_config`.
      device: "cpu" or "cuda"; on "cuda" the function does not wait for the step.
      bfloat16: use autocast, with float32 parameters as in cdt.
      compiled: use `torch.compile` with its defaults; otherwise eager.
    """
    batch, _ = first_batch(config)
    c = config.model
    with torch.device(device):
        model = DiTTransformer2DModel(
            num_attention_heads=c.num_heads, attention_head_dim=c.hidden_size // c.num_heads,
            in_channels=config.data.channels, num_layers=c.depth, patch_size=c.patch_size,
            sample_size=config.data.image_size, num_embeds_ada_norm=c.num_classes, norm_eps=1e-6,
        )  # fmt: skip
    shared = SharedEmbedding(model.transformer_blocks[0].norm1.emb)
    for module in model.modules():
        if isinstance(module, AdaLayerNormZero):
            module.emb = shared
    model.train()  # the embedding then drops a tenth of the labels, as in cdt
    params = list(model.parameters())
    average = [p.detach().clone() for p in params]
    optimizer = torch.optim.AdamW(params, lr=config.optim.lr, weight_decay=0.0, fused=True)
    image = torch.from_numpy(batch["image"].transpose(0, 3, 1, 2).copy()).to(device)
    label = torch.from_numpy(batch["label"]).long().to(device)

    def loss_of(image, u, eps, embedding):
        shared.value = embedding
        x0 = image.float() / 127.5 - 1
        level = u[:, None, None, None]
        velocity = model((1 - level) * x0 + level * eps, u, label).sample
        return ((velocity.float() - (eps - x0)) ** 2).mean()

    if compiled:
        loss_of = torch.compile(loss_of)

    def run():
        u = torch.rand(len(image), device=device)
        eps = torch.randn(image.shape, device=device)
        with torch.autocast(device, torch.bfloat16, enabled=bfloat16):
            embedding = shared.embedding(u, label, hidden_dtype=torch.float32)
            loss = loss_of(image, u, eps, embedding)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        with torch.no_grad():
            torch._foreach_lerp_(average, params, 1 - config.ema.decays[0])
        return loss.detach()

    return run, sum(p.numel() for p in params)
