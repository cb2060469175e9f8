"""On paper: the MFU that a DiT can be expected to reach on many chips.

    python -m benchmarks.roofline [--case dit_xl2] [--batch_per_chip 32] [--efficiency 0.45]

A step computes for FLOPs / (peak * efficiency), the efficiency being what one chip reaches, and
sends what the compiled programs send (docs/benchmarks.md, "Collectives"): with fsdp parameters are
gathered in the forward and in the backward pass and gradients reduced and scattered; replicas
reduce the gradients, first within a domain of fast links, then their shares between domains. All of
it is counted in float32, and n chips send (n - 1) / n of what passes around their ring. MFU is
given for communication that hides behind computation not at all and wholly: the truth lies between.
"""

import argparse
from typing import NamedTuple

import jax

from benchmarks.cases import case_config
from benchmarks.flops import forward_flops
from cdt import build


class Chip(NamedTuple):
    """Data sheets; links as in Austin et al. 2025, "How to Scale Your Model"."""

    name: str
    peak: float  # bfloat16 FLOP/s
    memory: float  # bytes
    link: float  # bytes/s that a chip sends within a domain: both directions of a torus' axis
    domain: int  # chips that such links join
    network: float  # bytes/s of a chip's share of what joins domains


CHIPS = (
    Chip("v5e", 197e12, 16e9, 90e9, 256, 3.1e9),
    Chip("v5p", 459e12, 95e9, 180e9, 8960, 6.2e9),
    Chip("Trillium", 918e12, 32e9, 180e9, 256, 12.5e9),
    Chip("H100", 989e12, 80e9, 450e9, 8, 50e9),
)
NUM_CHIPS = (1, 8, 64, 256, 1024)
AVERAGES = 1
FLOAT = 4  # bytes


def share(n: int) -> float:
    """What each of n chips sends of the bytes that pass around their ring."""
    return (n - 1) / n


def communication(num_params: int, n: int, fsdp: int, chip: Chip) -> tuple[float, float]:
    """(bytes that a chip sends in a step, the seconds this takes).

    Args:
      num_params: of the network.
      n: chips.
      fsdp: of them, those that split the parameters, in one domain; n / fsdp replicas.
      chip: which.
    """
    size = FLOAT * num_params
    near = min(n, chip.domain) // fsdp  # replicas in a domain
    far = n // (near * fsdp)  # domains
    within = 3 * size * share(fsdp) + 2 * size / fsdp * share(near)
    between = 2 * size / (fsdp * near) * share(far)
    return within + between, within / chip.link + between / chip.network


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--case", default="dit_xl2")
    parser.add_argument("--batch_per_chip", type=int, default=32)
    parser.add_argument("--efficiency", type=float, default=0.45, help="MFU of one chip")
    args = parser.parse_args()

    config = case_config(args.case)
    shapes = jax.eval_shape(build.model(config).init, jax.random.key(0))
    num_params = sum(leaf.size for leaf in jax.tree.leaves(shapes))
    flops = 3 * args.batch_per_chip * forward_flops(config)
    state = FLOAT * num_params * (3 + AVERAGES)  # parameters, two moments, averages
    print(f"{args.case}: {num_params / 1e6:.0f} M parameters, {flops / 1e12:.1f} TFLOP a chip")
    print("| chips | mesh data x fsdp | batch | state a chip | sent a chip | step | MFU |")
    print("|---|---|---|---|---|---|---|")
    for chip in CHIPS:
        computing = flops / (chip.peak * args.efficiency)
        for n in NUM_CHIPS:
            # As few chips share the state as hold it in a quarter of their memory.
            fsdp = 1
            while state / fsdp > chip.memory / 4 and fsdp < min(n, chip.domain):
                fsdp *= 2
            sent, sending = communication(num_params, n, fsdp, chip)
            mfu = [flops / s / chip.peak for s in (computing + sending, max(computing, sending))]
            cells = (
                f"{n} {chip.name}",
                f"{n // fsdp} x {fsdp}",
                f"{n * args.batch_per_chip:,}",
                f"{state / fsdp / 1e9:.1f} GB",
                f"{sent / 1e9:.2f} GB",
                f"{1e3 * computing:.0f} + {1e3 * sending:.0f} ms",
                f"{100 * mfu[0]:.0f}-{100 * mfu[1]:.0f} %",
            )
            print(f"| {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
