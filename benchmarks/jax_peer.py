"""The train step on the CPU, compared with that of hackable-diffusion, a JAX library.

    python3.12 -m venv .venv-jax-peer  # then install as described in requirements-jax-peer.txt
    .venv-jax-peer/bin/python -m benchmarks.jax_peer [--case dit_s4] [--pairs 40] [--default_malloc]

Both train a DiT of the same width, depth, heads and patches on the same fixed batch, in float32,
with flow matching, AdamW and one EMA, and with the same jax, XLA and optax. Each runs the step that
its users run: cdt compiled as in its training loop, the library with its own trainer.
`benchmarks/hackable_dit.py` lists the differences between the steps. Because of them, the ratio of
times per FLOP is printed too. The two take turns (`benchmarks/turns.py`).
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
    """Return ((number of parameters, forward FLOPs of one image), the step of cdt)."""
    keep_freed_memory()  # as `python -m cdt.main` does
    config = case_config(name)
    step = compiled_step(config)
    return (step.num_params, flops.forward_flops(config)), {"step": step.runner()}


def peer(name: str, default_malloc: bool):
    """Return ((number of parameters, forward FLOPs of one image), the step of the library)."""
    if not default_malloc:
        keep_freed_memory()
    # Imported here, so that the process of cdt does not import these libraries.
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
        "--default_malloc", action="store_true", help="run the library with the default malloc"
    )
    args = parser.parse_args()
    libraries = ("jax", "jaxlib", "flax", "optax", "hackable-diffusion", "kauldron")
    print(", ".join(f"{library} {version(library)}" for library in libraries))
    for name in args.case or CASES:
        compare(name, args.pairs, args.default_malloc)


if __name__ == "__main__":
    main()
