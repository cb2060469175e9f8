"""The train step on the CPU: ours against PyTorch eager, and its share of the matmul peak.

    make .venv-peers/installed
    .venv-peers/bin/python -m benchmarks.train_step_cpu [--case dit_s4] [--pairs 40]

Both sides train the same network (diffusers' DiTTransformer2DModel in PyTorch) on a fixed batch of
uint8 images by flow matching, with the same work in a step: noise levels, noise and dropped labels
are drawn, then forward, backward, AdamW, and one exponential moving average. Ours also guards
against bad numbers and sums the losses per cluster. Each side has a process of its own, as its
users have, and the processes take turns of a few steps, so that whatever else the machine does
meets both: in one process PyTorch's threads, which spin a while after each operation, disturb our
step, and ours disturb PyTorch more. The ratio of the fastest steps stands beside the median of the
pairs' ratios.

Targets: time ratio <= 0.85 (digits), <= 1.0 (dit_s4, aim 0.85); matrix-product share >= 0.6
(dit_s4).
"""

import argparse
import multiprocessing
import time
from collections.abc import Callable
from multiprocessing.connection import Connection

import jax
import jax.numpy as jnp
import numpy as np
import torch
from diffusers import DiTTransformer2DModel
from diffusers.models.normalization import AdaLayerNormZero

from cdt import build
from cdt.compilation import compile_program
from cdt.config import default_config
from cdt.malloc import keep_freed_memory
from cdt.models.dit import named_dit

WARMUP = 3  # pairs that are not counted
STEPS_A_TURN = 5
MATMUL_SIDE = 2048


def digits_config():
    config = default_config()
    config.model.num_classes = 10
    config.model.depth = 4
    config.model.hidden_size, config.model.num_heads, config.model.patch_size = 128, 4, 2
    config.train.batch_size = 64
    return config


def dit_s4_config():
    config = default_config()
    config.data.name = "mock"
    config.data.image_size, config.data.channels = 32, 3
    model = named_dit("S/4", out_channels=3)
    config.model.hidden_size, config.model.num_heads = model.hidden_size, model.num_heads
    config.model.depth, config.model.patch_size = model.depth, model.patch_size
    config.model.num_classes = 10
    config.train.batch_size = 16
    return config


CASES = {"digits": digits_config, "dit_s4": dit_s4_config}


def case_config(name: str):
    config = CASES[name]()
    config.model.unroll = True
    config.process.name = "flow"
    config.timesteps.name = "uniform"
    return config


def first_batch(config) -> tuple[dict[str, np.ndarray], int]:
    """(a batch, size of the data)."""
    source, _ = build.data(config)
    indices = np.arange(config.train.batch_size)
    batch = {"image": source.images(indices), "label": source.labels[indices].astype(np.int32)}
    return batch, source.size


def our_step(config) -> tuple[Callable[[], None], int]:
    """(a function that runs one train step to its end, number of parameters)."""
    batch, data_size = first_batch(config)
    model = build.model(config)
    parts = build.training(config, model, 1, data_size, build.open_all_at(config, data_size))
    on_device = jax.device_put(batch)
    state = jax.jit(parts.init)(jax.random.key(0))
    step = compile_program(jax.jit(parts.step, donate_argnums=0).lower(state, on_device))

    def run():
        nonlocal state
        state, metrics = step(state, on_device)
        jax.block_until_ready((state, metrics))

    return run, sum(p.size for p in jax.tree.leaves(state.params))


class OneEmbedding(torch.nn.Module):
    """Stands for the embedding that diffusers repeats in each block: one, computed once a step."""

    def __init__(self, embedding: torch.nn.Module):
        super().__init__()
        self.embedding, self.value = embedding, None

    def forward(self, timestep, class_labels, hidden_dtype=None):
        if self.value is None:
            self.value = self.embedding(timestep, class_labels, hidden_dtype)
        return self.value


def torch_step(config) -> tuple[Callable[[], None], int]:
    """The same in PyTorch eager."""
    batch, _ = first_batch(config)
    c = config.model
    model = DiTTransformer2DModel(
        num_attention_heads=c.num_heads, attention_head_dim=c.hidden_size // c.num_heads,
        in_channels=config.data.channels, num_layers=c.depth, patch_size=c.patch_size,
        sample_size=config.data.image_size, num_embeds_ada_norm=c.num_classes, norm_eps=1e-6,
    )  # fmt: skip
    embedding = OneEmbedding(model.transformer_blocks[0].norm1.emb)
    for module in model.modules():
        if isinstance(module, AdaLayerNormZero):
            module.emb = embedding
    model.train()  # the embedding then drops labels itself, a tenth of them as ours
    params = list(model.parameters())
    average = [p.detach().clone() for p in params]
    optimizer = torch.optim.AdamW(params, lr=config.optim.lr, weight_decay=0.0, fused=True)
    image = torch.from_numpy(batch["image"].transpose(0, 3, 1, 2).copy())
    label = torch.from_numpy(batch["label"]).long()

    def run():
        x0 = image.float() / 127.5 - 1
        u = torch.rand(len(x0))
        eps = torch.randn_like(x0)
        level = u[:, None, None, None]
        embedding.value = None
        velocity = model((1 - level) * x0 + level * eps, u, label).sample
        loss = ((velocity - (eps - x0)) ** 2).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        with torch.no_grad():
            torch._foreach_lerp_(average, params, 1 - config.ema.decays[0])

    return run, sum(p.numel() for p in params)


def step_flops(config) -> float:
    """FLOPs of the matrix products of a step: three forward passes, two FLOPs a multiply-add."""
    c = config.model
    d, tokens = c.hidden_size, (config.data.image_size // c.patch_size) ** 2
    blocks = c.depth * (24 * tokens * d**2 + 4 * tokens**2 * d + 12 * d**2)
    patch_and_final = 2 * (2 * tokens * c.patch_size**2 * config.data.channels * d)
    embedding_and_final_adaln = 2 * 256 * d + 2 * d**2 + 4 * d**2
    return 3 * config.train.batch_size * (blocks + patch_and_final + embedding_and_final_adaln)


def matmul() -> Callable[[], object]:
    """One float32 product of square matrices."""
    a, b = jax.random.normal(jax.random.key(0), (2, MATMUL_SIDE, MATMUL_SIDE))
    product = jax.jit(jnp.matmul).lower(a, b).compile()
    return lambda: jax.block_until_ready(product(a, b))


def median_interval(values: np.ndarray) -> str:
    """Median with its 95 % bootstrap interval."""
    rng = np.random.default_rng(0)
    medians = np.median(rng.choice(values, (10_000, len(values))), axis=1)
    low, high = np.quantile(medians, [0.025, 0.975])
    return f"{np.median(values):.3f} [{low:.3f}, {high:.3f}]"


def worker(side: str, name: str, turns: Connection) -> None:
    """Builds one side's step and says its size; then runs and times what it is asked for."""
    keep_freed_memory()  # as the program itself does; PyTorch gains by it too
    step, size = {"ours": our_step, "PyTorch": torch_step}[side](case_config(name))
    runs = {"step": step, "matmul": matmul()}
    turns.send(size)
    while what := turns.recv():
        runs[what]()  # what the other side's turn left in the caches is nobody's cost
        times = []
        for _ in range(STEPS_A_TURN):
            began = time.perf_counter()
            runs[what]()
            times.append(time.perf_counter() - began)
        turns.send(times)


def measure(name: str, pairs: int) -> tuple[dict[str, np.ndarray], int]:
    """(seconds [pairs, STEPS_A_TURN] of our step, PyTorch's and the product; parameters)."""
    context = multiprocessing.get_context("spawn")
    turns, sizes = {}, {}
    for side in ("ours", "PyTorch"):
        turns[side], end = context.Pipe()
        context.Process(target=worker, args=(side, name, end), daemon=True).start()
        sizes[side] = turns[side].recv()
    assert sizes["ours"] == sizes["PyTorch"], f"{sizes} parameters"

    # The peak is measured beside the steps, in our process, as the machine's speed varies.
    asks = {"ours": ("ours", "step"), "PyTorch": ("PyTorch", "step"), "matmul": ("ours", "matmul")}
    times = {label: [] for label in asks}
    for i in range(WARMUP + pairs):
        for label, (side, what) in asks.items() if i % 2 else reversed(asks.items()):
            turns[side].send(what)
            turn = turns[side].recv()
            if i >= WARMUP:
                times[label].append(turn)
    for connection in turns.values():
        connection.send(None)
    return {label: np.array(turn) for label, turn in times.items()}, sizes["ours"]


def compare(name: str, pairs: int) -> None:
    times, size = measure(name, pairs)
    flops = step_flops(case_config(name))
    print(
        f"\n{name}: {size / 1e6:.2f} M parameters, {flops / 1e9:.1f} GFLOP a step, "
        f"{pairs} pairs of {STEPS_A_TURN} steps"
    )
    for side in ("ours", "PyTorch"):
        ms = 1e3 * times[side]
        print(f"  {side:8} median {np.median(ms):7.1f} ms, fastest {ms.min():7.1f} ms")
    ratios = times["ours"].mean(axis=1) / times["PyTorch"].mean(axis=1)
    print(f"  ours / PyTorch: {median_interval(ratios)}, ", end="")
    print(f"of the fastest {times['ours'].min() / times['PyTorch'].min():.3f}")
    for label, of in [("medians", np.median), ("fastest", np.min)]:
        achieved = flops / of(times["ours"]) / 1e9
        peak = 2 * MATMUL_SIDE**3 / of(times["matmul"]) / 1e9
        print(f"  matrix-product share, {label}: {achieved:.0f} of {peak:.0f} GFLOP/s", end="")
        print(f" = {achieved / peak:.2f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--case", choices=[*CASES], action="append", help="default: all")
    parser.add_argument("--pairs", type=int, default=40)
    args = parser.parse_args()
    print(f"jax {jax.__version__}, torch {torch.__version__}, {torch.get_num_threads()} threads")
    for name in args.case or CASES:
        compare(name, args.pairs)


if __name__ == "__main__":
    main()
