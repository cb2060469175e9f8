"""Networks: Flax modules from (noisy input, time input, conditioning) to the raw output.

diffusion transformers  DiT, named_dit, DIT_SIZES
U-Nets                  UNet, adm, ddpmpp, ADM_SIZES, DDPMPP_SIZES
autoencoder of latents  Autoencoder, Moments
conditioning            TimestepEmbedder, LabelEmbedder, timestep_embedding, with_classes
layers                  Dense, Mlp, SelfAttention, CrossAttention, adaptive_layer_norm,
                        gated, patchify, unpatchify, position_embedding
task routing            task_routing, routing_mask, Routing
rematerialisation       rematerialised, REMATS
"""

from cdt.models.autoencoder import Autoencoder, Moments
from cdt.models.conditioning import (
    LabelEmbedder,
    TimestepEmbedder,
    timestep_embedding,
    with_classes,
)
from cdt.models.dense import Dense
from cdt.models.dit import DIT_SIZES, DiT, named_dit
from cdt.models.layers import (
    CrossAttention,
    Mlp,
    SelfAttention,
    adaptive_layer_norm,
    gated,
    patchify,
    position_embedding,
    unpatchify,
)
from cdt.models.remat import REMATS, rematerialised
from cdt.models.routing import Routing, routing_mask, task_routing
from cdt.models.unet import ADM_SIZES, DDPMPP_SIZES, UNet, adm, ddpmpp

__all__ = [
    "ADM_SIZES", "Autoencoder", "CrossAttention", "DDPMPP_SIZES", "DIT_SIZES", "Dense", "DiT",
    "LabelEmbedder", "Mlp", "Moments", "REMATS", "Routing", "SelfAttention", "TimestepEmbedder",
    "UNet", "adaptive_layer_norm", "adm", "ddpmpp", "gated", "named_dit", "patchify",
    "position_embedding", "rematerialised", "routing_mask", "task_routing", "timestep_embedding",
    "unpatchify", "with_classes",
]  # fmt: skip
