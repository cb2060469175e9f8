"""The train step on the CPU, compared with PyTorch eager and with the peak of matrix products.

    make .venv-peers/installed
    .venv-peers/bin/python -m benchmarks.train_step_cpu [--case dit_s4] [--pairs 40]

Both train the same network (diffusers' DiTTransformer2DModel in PyTorch) on a fixed batch of uint8
images with flow matching. Both do the same work in a step: draw noise levels, noise and dropped
labels, then forward, backward, AdamW and one EMA. cdt also checks for NaN or inf and sums the
losses per cluster. The two take turns (`benchmarks/turns.py`) in separate processes. In one process
their threads would disturb each other, because PyTorch's threads spin for a while after each
operation. The output has the median of the ratios of all pairs, and the ratio of the fastest steps.

Targets: time ratio <= 0.85 (digits), <= 1.0 (dit_s4, aim 0.85); fraction of the matrix-product peak
>= 0.6 (dit_s4).
"""

import argparse
from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import torch

from benchmarks.cases import case_config, compiled_step
from benchmarks.flops import forward_flops
from benchmarks.torch_dit import torch_step
from benchmarks.turns import CALLS_A_TURN, paired_ratio, take_turns
from cdt.devices.malloc import keep_freed_memory

MATMUL_SIDE = 2048
CASES = ("digits", "dit_s4")


def matmul() -> Callable[[], object]:
    """Return a function that computes one float32 product of square matrices."""
    a, b = jax.random.normal(jax.random.key(0), (2, MATMUL_SIDE, MATMUL_SIDE))
    product = jax.jit(jnp.matmul).lower(a, b).compile()
    return lambda: jax.block_until_ready(product(a, b))


def ours(name: str):
    """Return (number of parameters, the step of cdt and the matrix product)."""
    keep_freed_memory()  # as `python -m cdt.main` does
    step = compiled_step(case_config(name))
    return step.num_params, {"step": step.runner(), "matmul": matmul()}


def peer(name: str):
    """Return (number of parameters, the step in PyTorch)."""
    keep_freed_memory()  # PyTorch becomes faster with it too
    step, size = torch_step(case_config(name))
    return size, {"step": step}


def compare(name: str, pairs: int) -> None:
    # The peak is measured in turns with the steps, because the speed of the machine varies.
    times, sizes = take_turns(
        {"ours": partial(ours, name), "PyTorch": partial(peer, name)},
        {"ours": ("ours", "step"), "PyTorch": ("PyTorch", "step"), "matmul": ("ours", "matmul")},
        pairs,
    )
    assert sizes["ours"] == sizes["PyTorch"], f"{sizes} parameters"
    config = case_config(name)
    flops = 3 * config.train.batch_size * forward_flops(config)
    print(
        f"\n{name}: {sizes['ours'] / 1e6:.2f} M parameters, {flops / 1e9:.1f} GFLOP a step, "
        f"{pairs} pairs of {CALLS_A_TURN} steps"
    )
    for side in ("ours", "PyTorch"):
        ms = 1e3 * times[side]
        print(f"  {side:8} median {np.median(ms):7.1f} ms, fastest {ms.min():7.1f} ms")
    print(f"  ours / PyTorch: {paired_ratio(times['ours'], times['PyTorch'])}, ", end="")
    print(f"fastest steps {times['ours'].min() / times['PyTorch'].min():.3f}")
    for label, of in [("medians", np.median), ("fastest", np.min)]:
        achieved = flops / of(times["ours"]) / 1e9
        peak = 2 * MATMUL_SIDE**3 / of(times["matmul"]) / 1e9
        print(f"  of the matrix-product peak, {label}: {achieved:.0f} / {peak:.0f} GFLOP/s", end="")
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
