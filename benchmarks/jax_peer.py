"""The train step on the CPU against the one of a JAX library, hackable-diffusion.

    python3.12 -m venv .venv-jax-peer  # and then as requirements-jax-peer.txt says
    .venv-jax-peer/bin/python -m benchmarks.jax_peer [--case dit_s4] [--pairs 40] [--default_malloc]

Both sides train a DiT of the same width, depth, heads and patches on the same fixed batch, in
float32, by flow matching, with AdamW and one average, under the same jax, XLA and optax. Each runs
the step that its users run: ours whole and compiled as the training loop does, the peer's by its
own trainer. `benchmarks/hackable_dit.py` says how the two differ; since they do, the ratio of times
per FLOP stands beside that of times. The sides take turns (`benchmarks/turns.py`).
"""

import argparse
from functools import partial
from importlib.metadata import version

import numpy as np

from benchmarks import flops
from benchmarks.cases import case_config, compiled_step
from benchmarks.turns import CALLS_A_TURN, paired_ratio, take_turns
from cdt.devices.malloc import keep_freed_memory

CASES = ("digits", "dit_s4")
PEER = "hackable-diffusion"


def ours(name: str):
    """((number of parameters, FLOPs of an image's evaluation), our step)."""
    keep_freed_memory()  # as the program itself does
    config = case_config(name)
    step = compiled_step(config)
    return (step.num_params, flops.forward_flops(config)), {"step": step.runner()}


def peer(name: str, default_malloc: bool):
    """((number of parameters, FLOPs of an image's evaluation), the peer's step)."""
    if not default_malloc:
        keep_freed_memory()
    # Here, so that the libraries it brings are no part of our process.
    from benchmarks import hackable_dit

    config = case_config(name)
    step, size = hackable_dit.hackable_step(config)
    return (size, hackable_dit.forward_flops(config)), {"step": step}


def compare(name: str, pairs: int, default_malloc: bool) -> None:
    times, facts = take_turns(
        {"ours": partial(ours, name), PEER: partial(peer, name, default_malloc)},
        {"ours": ("ours", "step"), PEER: (PEER, "step")},
        pairs,
    )
    batch = case_config(name).train.batch_size
    print(f"\n{name}: batch {batch}, {pairs} pairs of {CALLS_A_TURN} steps")
    cost = {}
    for side, (size, forward) in facts.items():
        ms, gflop = 1e3 * times[side], 3 * batch * forward / 1e9
        cost[side] = times[side] / gflop
        print(
            f"  {side:18} {size:,} parameters, {gflop:.2f} GFLOP a step, "
            f"median {np.median(ms):.1f} ms, fastest {ms.min():.1f} ms, "
            f"{np.median(ms) / gflop:.2f} ms a GFLOP"
        )
    print(
        f"  ours / {PEER}: {paired_ratio(times['ours'], times[PEER])}, per FLOP "
        f"{paired_ratio(cost['ours'], cost[PEER])}, of the fastest "
        f"{times['ours'].min() / times[PEER].min():.3f}",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--case", choices=CASES, action="append", help="default: all")
    parser.add_argument("--pairs", type=int, default=40)
    parser.add_argument(
        "--default_malloc", action="store_true", help="the peer without our setting of malloc"
    )
    args = parser.parse_args()
    libraries = ("jax", "jaxlib", "flax", "optax", "hackable-diffusion", "kauldron")
    print(", ".join(f"{library} {version(library)}" for library in libraries))
    for name in args.case or CASES:
        compare(name, args.pairs, args.default_malloc)


if __name__ == "__main__":
    main()
