"""Train step of a DiT on the CPU: ours against PyTorch eager, and the share of matmul peak.

    pip install -r requirements-peers.txt     (see its first lines)
    python -m benchmarks.train_step_cpu [digits|dit_s4]

Both sides train the same network with the same work in a step: forward, backward, AdamW, and one
exponential moving average of the parameters. The steps alternate in one process, so that whatever
else the machine does meets both; the ratio of each pair's times is what is reported.
"""

import argparse
import time
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import torch
from diffusers import DiTTransformer2DModel
from diffusers.models.normalization import AdaLayerNormZero

from cdt.models.dit import DiT

LEARNING_RATE = 1e-4
EMA_DECAY = 0.9999


class Case(NamedTuple):
    batch: int
    image: tuple[int, int]  # side, channels
    patch: int
    width: int
    depth: int
    heads: int
    classes: int


CASES = {
    "digits": Case(128, (8, 1), 2, 128, 6, 4, 10),
    "dit_s4": Case(16, (32, 3), 4, 384, 12, 6, 1000),
}


def make_batch(case: Case) -> tuple[np.ndarray, ...]:
    """(x [B, H, W, C], time [B], label [B], target like x)."""
    rng = np.random.default_rng(0)
    side, channels = case.image
    shape = (case.batch, side, side, channels)
    x, target = rng.standard_normal((2, *shape), dtype=np.float32)
    time_input = rng.uniform(0, 1000, case.batch).astype(np.float32)
    return x, time_input, rng.integers(case.classes, size=case.batch, dtype=np.int32), target


def forward_flops(case: Case) -> float:
    """FLOPs of one forward pass of the batch: two for each multiply-add of a matrix product."""
    side, channels = case.image
    tokens, d = (side // case.patch) ** 2, case.width
    block = 24 * tokens * d**2 + 4 * tokens**2 * d + 12 * d**2
    patch_and_final = 2 * 2 * tokens * case.patch**2 * channels * d
    conditioning = 2 * 256 * d + 2 * d**2 + 4 * d**2
    return case.batch * (case.depth * block + patch_and_final + conditioning)


def jax_step(case: Case):
    """A function that runs one step of ours to completion."""
    model = DiT(
        case.patch, case.width, case.depth, case.heads, case.image[1],
        num_classes=case.classes, unroll=True,
    )  # fmt: skip
    optimizer = optax.adamw(LEARNING_RATE, weight_decay=0.0)
    batch = jax.device_put(make_batch(case))

    @jax.jit
    def init(key):
        params = model.init(key, *batch[:3])
        return params, optimizer.init(params), jax.tree.map(jnp.copy, params)

    def step(state, batch):
        params, opt_state, ema = state
        *inputs, target = batch

        def loss_fn(params):
            return jnp.mean((model.apply(params, *inputs) - target) ** 2)

        loss, grads = jax.value_and_grad(loss_fn)(params)
        updates, opt_state = optimizer.update(grads, opt_state, params)
        params = optax.apply_updates(params, updates)
        ema = jax.tree.map(lambda e, p: e + (1 - EMA_DECAY) * (p - e), ema, params)
        return (params, opt_state, ema), loss

    state = init(jax.random.key(0))
    step = jax.jit(step, donate_argnums=0).lower(state, batch).compile()

    def run():
        nonlocal state
        state, loss = step(state, batch)
        jax.block_until_ready((state, loss))

    return run, sum(p.size for p in jax.tree.leaves(state[0]))


class OneEmbedding(torch.nn.Module):
    """Stands in for the embedding that diffusers repeats in each block: computed once a step."""

    def __init__(self, embedding: torch.nn.Module):
        super().__init__()
        self.embedding, self.value = embedding, None

    def forward(self, timestep, class_labels, hidden_dtype=None):
        if self.value is None:
            self.value = self.embedding(timestep, class_labels, hidden_dtype)
        return self.value


def torch_step(case: Case):
    """A function that runs one step of PyTorch's."""
    torch.manual_seed(0)
    side, channels = case.image
    model = DiTTransformer2DModel(
        case.heads, case.width // case.heads, channels, num_layers=case.depth, sample_size=side,
        patch_size=case.patch, num_embeds_ada_norm=case.classes, norm_eps=1e-6,
    )  # fmt: skip
    embedding = OneEmbedding(model.transformer_blocks[0].norm1.emb)
    for module in model.modules():
        if isinstance(module, AdaLayerNormZero):
            module.emb = embedding
    model.eval()  # label dropout off; nothing else depends on it
    params = list(model.parameters())
    ema = [p.detach().clone() for p in params]
    optimizer = torch.optim.AdamW(params, lr=LEARNING_RATE, weight_decay=0.0)
    x, time_input, label, target = map(torch.from_numpy, make_batch(case))
    x, target = (a.permute(0, 3, 1, 2).contiguous() for a in (x, target))

    def run():
        embedding.value = None
        loss = torch.mean((model(x, time_input, label.long()).sample - target) ** 2)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        torch._foreach_lerp_(ema, [p.detach() for p in params], 1 - EMA_DECAY)

    return run, sum(p.numel() for p in params)


def seconds(run) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def matmul_peak(repeats: int = 5) -> float:
    """FLOP/s of one float32 product of 2048 x 2048 matrices, the best of `repeats`."""
    n = 2048
    a, b = jax.random.normal(jax.random.key(0), (2, n, n))
    product = jax.jit(jnp.matmul).lower(a, b).compile()
    jax.block_until_ready(product(a, b))
    return 2 * n**3 / min(seconds(lambda: jax.block_until_ready(product(a, b))) for _ in range(repeats))


def median_interval(values: np.ndarray) -> tuple[float, float, float]:
    """Median with its 95 % bootstrap interval."""
    rng = np.random.default_rng(0)
    medians = np.median(rng.choice(values, (10_000, len(values))), axis=1)
    return float(np.median(values)), *np.quantile(medians, [0.025, 0.975])


def compare(name: str, pairs: int, warmup: int = 3) -> None:
    case = CASES[name]
    ours, our_size = jax_step(case)
    theirs, their_size = torch_step(case)
    assert our_size == their_size, (our_size, their_size)
    times, peaks = [], []
    for i in range(warmup + pairs):
        # Who goes first alternates; the peak is measured throughout, as the machine's speed varies.
        order = (ours, theirs) if i % 2 else (theirs, ours)
        pair = {run: seconds(run) for run in order}
        if i >= warmup:
            times.append((pair[ours], pair[theirs]))
            if i % 5 == 0:
                peaks.append(matmul_peak())
    times = np.array(times)
    ratio = median_interval(times[:, 0] / times[:, 1])
    flops = 3 * forward_flops(case)
    achieved, peak = flops / np.median(times[:, 0]), np.median(peaks)
    print(f"{name}: {our_size / 1e6:.2f} M parameters, {flops / 1e9:.1f} GFLOP a step")
    print(f"  ours    {np.median(times[:, 0]) * 1e3:8.1f} ms")
    print(f"  PyTorch {np.median(times[:, 1]) * 1e3:8.1f} ms")
    print(f"  ours / PyTorch: {ratio[0]:.3f} [{ratio[1]:.3f}, {ratio[2]:.3f}], {pairs} pairs")
    print(
        f"  matrix-product share: {achieved / 1e9:.1f} of {peak / 1e9:.1f} GFLOP/s "
        f"= {achieved / peak:.3f}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("case", nargs="*", choices=[[], *CASES], default=[*CASES])
    parser.add_argument("--pairs", type=int, default=40)
    args = parser.parse_args()
    print(f"jax {jax.__version__}, torch {torch.__version__}, {torch.get_num_threads()} threads")
    for name in args.case:
        compare(name, args.pairs)


if __name__ == "__main__":
    main()
