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

from benchmarks.cases import case_config, compiled_step
from benchmarks.flops import forward_flops
from benchmarks.torch_dit import torch_step
from cdt.malloc import keep_freed_memory

WARMUP = 3  # pairs that are not counted
STEPS_A_TURN = 5
MATMUL_SIDE = 2048
CASES = ("digits", "dit_s4")


def our_step(config) -> tuple[Callable[[], None], int]:
    """(a function that runs one train step to its end, number of parameters)."""
    step = compiled_step(config)
    state = step.state

    def run():
        nonlocal state
        state, metrics = step.program(state, step.batch)
        jax.block_until_ready((state, metrics))

    return run, step.num_params


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
    config = case_config(name)
    flops = 3 * config.train.batch_size * forward_flops(config)
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
    parser.add_argument("--case", choices=CASES, action="append", help="default: all")
    parser.add_argument("--pairs", type=int, default=40)
    args = parser.parse_args()
    print(f"jax {jax.__version__}, torch {torch.__version__}, {torch.get_num_threads()} threads")
    for name in args.case or CASES:
        compare(name, args.pairs)


if __name__ == "__main__":
    main()
