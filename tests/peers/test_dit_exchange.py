"""Export to diffusers' DiTPipeline and import of PyTorch files give the same network and images.

The module with the official names is written from the paper.
"""

import argparse

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL, DDIMScheduler, DiTPipeline, DiTTransformer2DModel
from diffusers.pipelines.dit import pipeline_dit
from torch import nn
from torch.nn import functional

from autoencoder_files import FACTOR, TINY, write_autoencoder
from cdt import from_config
from cdt.diffusion.denoiser import make_denoiser
from cdt.diffusion.guidance import classifier_free_guidance
from cdt.diffusion.schedules import cosine_betas, linear_betas
from cdt.files.safetensors import read_tensors
from cdt.interop.autoencoder_files import autoencoder_of, autoencoder_params
from cdt.interop.export_diffusers import export_diffusers
from cdt.interop.import_dit import import_dit
from cdt.sampling.ddim import ddim
from cdt.sampling.grids import strided_timesteps
from dit_runs import SIDE, ddpm, latent_ddpm, random_params, random_run
from smoke_runs import arrays

WIDTH, HEADS, DEPTH, CLASSES = 32, 4, 2, 10


def nchw(x):
    return torch.from_numpy(np.array(x).transpose(0, 3, 1, 2).copy())


def nhwc(x):
    return x.detach().numpy().transpose(0, 2, 3, 1)


def with_dits_frequencies(transformer):
    """Set the frequencies as the model card shows."""
    for block in transformer.transformer_blocks:
        block.norm1.emb.time_proj.downscale_freq_shift = 0
    return transformer


def network_inputs(channels, n=5):
    rng = np.random.default_rng(1)
    x = rng.standard_normal((n, 2 * SIDE, 2 * SIDE, channels), dtype=np.float32)
    time = np.array([0, 1, 30, 500, 999], np.float32)
    return x, time, np.array([0, 1, 5, 9, CLASSES], np.int32)


def assert_close(ours, theirs, tolerance=1e-4):
    error = np.abs(np.asarray(ours) - theirs).max() / np.std(theirs)
    print(f"{error:.1e} of the deviation {np.std(theirs):.2g}")
    assert ours.shape == theirs.shape and error < tolerance


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    folder = tmp_path_factory.mktemp("exported")
    vae = write_autoencoder(folder / "autoencoder").parent
    config = latent_ddpm()
    run = random_run(folder, config)
    assert export_diffusers(config, run, folder / "out", vae) == 0
    return config, folder / "out"


def test_the_networks_agree(exported):
    config, folder = exported
    peer = DiTTransformer2DModel.from_pretrained(folder, subfolder="transformer").eval()
    x, time, label = network_inputs(channels=4)
    model = from_config.model(config)
    ours = model.apply(random_params(config), x, time, {"label": label}, None)

    def theirs(label):
        arguments = torch.from_numpy(time), torch.from_numpy(label).long()
        return nhwc(peer(nchw(x), *arguments).sample)

    without_the_card = theirs(label)
    with_dits_frequencies(peer)
    assert_close(ours, theirs(label))
    assert np.abs(ours - without_the_card).max() > 0.01  # so the model card must mention it
    # The label of the pipeline for "no class" gives our null class.
    assert_close(ours, theirs(np.where(label == CLASSES, 1000, label)))


def test_twenty_steps_of_the_pipeline(exported, monkeypatch):
    config, folder = exported
    pipe = DiTPipeline.from_pretrained(folder)
    with_dits_frequencies(pipe.transformer)
    rng = np.random.default_rng(2)
    noise = rng.standard_normal((4, 2 * SIDE, 2 * SIDE, 4), dtype=np.float32)
    monkeypatch.setattr(pipeline_dit, "randn_tensor", lambda *args, **kwargs: nchw(noise))
    labels, latents = [3, 0, 9, 7], []
    decode = pipe.vae.decode
    monkeypatch.setattr(pipe.vae, "decode", lambda z: latents.append(z) or decode(z))
    theirs = pipe(labels, guidance_scale=1.5, num_inference_steps=20, output_type="pt").images

    model, params = from_config.model(config), random_params(config)

    def network(x, level, condition):
        return model.apply(params, x, model.process.time_input(level), condition, None)

    condition = {"label": jnp.array(labels, jnp.int32)}
    guided = classifier_free_guidance(network, model.process, condition, model.null, 1.5)
    denoise = make_denoiser(guided, model.process, model.prediction, model.learn_variance)
    sample = jax.jit(lambda x: ddim(denoise, model.process, strided_timesteps(1000, 20), x, None))
    ours = sample(noise) / config.latents.scale
    assert_close(ours, nhwc(latents[0]))

    vae = autoencoder_of(TINY)
    weights = read_tensors(folder / "vae" / "diffusion_pytorch_model.safetensors")
    images = vae.apply({"params": autoencoder_params(vae, weights)}, ours, method="decode")
    assert images.shape[1] == FACTOR * 2 * SIDE
    assert_close(jnp.clip(images / 2 + 0.5, 0, 1), nhwc(theirs))


def test_what_diffusers_saves_comes_back_bit_by_bit(exported, tmp_path):
    config, folder = exported
    DiTPipeline.from_pretrained(folder).save_pretrained(tmp_path / "again")
    assert import_dit(config, tmp_path / "run", tmp_path / "again") == 0
    jax.tree.map(
        np.testing.assert_array_equal, arrays(tmp_path / "run")["params"], random_params(config)
    )


def test_an_autoencoder_may_be_given_later(tmp_path):
    config = latent_ddpm()
    export_diffusers(config, random_run(tmp_path, config), tmp_path / "out")
    with torch.device("cpu"):
        vae = AutoencoderKL.from_config(TINY)
    pipe = DiTPipeline.from_pretrained(tmp_path / "out", vae=vae)
    assert pipe.vae is vae and pipe.labels["7"] == 7


@pytest.mark.parametrize("schedule, betas", [("linear", linear_betas), ("cosine", cosine_betas)])
@pytest.mark.parametrize("num_timesteps", [1000, 400])
def test_the_schedulers_agree(tmp_path, schedule, betas, num_timesteps):
    config = ddpm(**{"process.schedule": schedule, "process.num_timesteps": num_timesteps})
    export_diffusers(config, random_run(tmp_path, config), tmp_path / "out")
    scheduler = DDIMScheduler.from_pretrained(tmp_path / "out", subfolder="scheduler")
    np.testing.assert_allclose(scheduler.betas, betas(num_timesteps), rtol=1e-4)
    scheduler.set_timesteps(20)
    np.testing.assert_array_equal(scheduler.timesteps, strided_timesteps(num_timesteps, 20)[:-1])


class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        self.qkv, self.proj = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)

    def forward(self, x):
        n, tokens, _ = x.shape
        q, k, v = self.qkv(x).view(n, tokens, 3, HEADS, -1).permute(2, 0, 3, 1, 4)
        weights = (q @ k.transpose(-2, -1) / q.shape[-1] ** 0.5).softmax(-1)
        return self.proj((weights @ v).transpose(1, 2).reshape(n, tokens, WIDTH))


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.attn = Attention()
        self.mlp = nn.Module()
        self.mlp.fc1, self.mlp.fc2 = nn.Linear(WIDTH, 4 * WIDTH), nn.Linear(4 * WIDTH, WIDTH)
        self.adaLN_modulation = nn.Sequential(nn.SiLU(), nn.Linear(WIDTH, 6 * WIDTH))

    def forward(self, x, c):
        a, b, g, a2, b2, g2 = self.adaLN_modulation(c)[:, None].chunk(6, -1)
        x = x + g * self.attn(normalised(x) * (1 + b) + a)
        hidden = functional.gelu(self.mlp.fc1(normalised(x) * (1 + b2) + a2), approximate="tanh")
        return x + g2 * self.mlp.fc2(hidden)


def normalised(x):
    return functional.layer_norm(x, (WIDTH,), eps=1e-6)


class OfficialDiT(nn.Module):
    """DiT with the names in the official files."""

    def __init__(self, channels, out_channels):
        super().__init__()
        self.out_channels = out_channels
        self.x_embedder, self.t_embedder, self.y_embedder = (nn.Module() for _ in range(3))
        self.x_embedder.proj = nn.Conv2d(channels, WIDTH, 2, stride=2)
        self.t_embedder.mlp = nn.Sequential(
            nn.Linear(256, WIDTH), nn.SiLU(), nn.Linear(WIDTH, WIDTH)
        )
        self.y_embedder.embedding_table = nn.Embedding(CLASSES + 1, WIDTH)
        self.pos_embed = nn.Parameter(torch.zeros(1, SIDE**2, WIDTH), requires_grad=False)
        self.blocks = nn.ModuleList(Block() for _ in range(DEPTH))
        self.final_layer = nn.Module()
        self.final_layer.linear = nn.Linear(WIDTH, 4 * out_channels)
        self.final_layer.adaLN_modulation = nn.Sequential(nn.SiLU(), nn.Linear(WIDTH, 2 * WIDTH))
        for p in self.parameters():
            p.data = 0.15 * torch.randn(p.shape)
        w = 10_000 ** (-torch.arange(WIDTH // 4, dtype=torch.float64) / (WIDTH // 4))
        y, x = np.divmod(np.arange(SIDE**2), SIDE)
        angles = [torch.outer(torch.from_numpy(axis).double(), w) for axis in (x, y)]
        table = torch.cat([f(angle) for angle in angles for f in (torch.sin, torch.cos)], 1)
        self.pos_embed.data = table.float()[None]

    def forward(self, x, time, label):
        angles = time[:, None] * torch.exp(-np.log(10_000) * torch.arange(128) / 128)
        c = self.t_embedder.mlp(torch.cat([angles.cos(), angles.sin()], 1))
        c = c + self.y_embedder.embedding_table(label)
        x = self.x_embedder.proj(x).flatten(2).transpose(1, 2) + self.pos_embed
        for block in self.blocks:
            x = block(x, c)
        shift, scale = self.final_layer.adaLN_modulation(c)[:, None].chunk(2, -1)
        x = self.final_layer.linear(normalised(x) * (1 + scale) + shift)
        x = x.view(-1, SIDE, SIDE, 2, 2, self.out_channels).permute(0, 5, 1, 3, 2, 4)
        return x.reshape(-1, self.out_channels, 2 * SIDE, 2 * SIDE)


@pytest.mark.parametrize("family", ["ddpm", "flow"])
@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
def test_official_files(tmp_path, family, zipped):
    """With files as the official training scripts save them; SiT's have variance channels too."""
    torch.manual_seed(0)
    average, other = (OfficialDiT(4, 8).eval() for _ in range(2))
    optimizer = torch.optim.AdamW(other.parameters())
    other(torch.randn(1, 4, 8, 8), torch.ones(1), torch.ones(1).long()).sum().backward()
    optimizer.step()
    saved = {
        "model": other.state_dict(),
        "ema": average.state_dict(),
        "opt": optimizer.state_dict(),
        "args": argparse.Namespace(model="DiT-XL/2", lr=1e-4, betas=[0.9]),
    }
    torch.save(saved, tmp_path / "a.pt", _use_new_zipfile_serialization=zipped)
    ddpm = family == "ddpm"
    config = latent_ddpm(**{"process.name": family, "process.learn_variance": ddpm})
    if not ddpm:
        config.sample.sampler = "heun"
    assert import_dit(config, tmp_path / "run", tmp_path / "a.pt") == 0
    params, model = arrays(tmp_path / "run")["params"], from_config.model(config)
    x, time, label = network_inputs(channels=4)
    if not ddpm:
        time = np.linspace(0, 1, len(x), dtype=np.float32)  # in SiT, 1 is clean
    theirs = nhwc(average(nchw(x), torch.from_numpy(time), torch.from_numpy(label).long()))
    if ddpm:
        ours = model.apply(params, x, time, {"label": label}, None)
    else:
        ours = -model.apply(params, x, 1 - time, {"label": label}, None)
        theirs = theirs[..., :4]
    assert_close(ours, theirs)
